"""`rushes curate` on real and hostile files, as a user runs it: rows, reasons, ids, clips, later runs."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections import Counter
from pathlib import Path

import pytest
import yaml
from helpers_curate import CONFIG, FRAMES, curate, rushes, signalled, table
from helpers_media import ffmpeg, frame_md5, make_video

from curation.dataset.records import clip_schema
from curation.schema import VIDEOS

REASONS = {
    "empty.mp4": "empty file",
    "garbage.mp4": "not a video",
    "page.mp4": "not a video",
    "notes.txt": "not a video",
    "sound.mp4": "no video stream",
    "truncated.mp4": "damaged: moov atom not found",
    "playlist.mp4": "not a video",
    "concat.mp4": "not a video (it is a concat file",
    "picture.mp4": "not a video (it is a gif file",
    "album.jpg": "not a video (JPEG pictures one after the other",
    "torn.jpg": "damaged: the picture ends early",
    "bomb.png": "too large: 12000x12000",
    "bomb.mkv": "too large: 12000x12000",
    "segfault.mp4": "decoder crashed (SIGSEGV)",
    "hang.mp4": "decoder hung",
}
GOOD = {"bikes.mp4", "bigbuckbunny.mp4", "carphone_pristine.mp4", "carphone_distorted.mp4", "odd.webm", "photo.mp4"}


@pytest.fixture(scope="module")
def raw(samples, tmp_path_factory) -> Path:
    """Good videos, a copy of one, and every kind of bad file among them."""
    folder = tmp_path_factory.mktemp("raw")
    for video in samples.glob("*.mp4"):
        shutil.copy(video, folder)
    (folder / "deep" / "er").mkdir(parents=True)
    shutil.copy(folder / "bikes.mp4", folder / "deep" / "er" / "same bytes.mov")
    make_video(folder / "odd.webm", samples / "bikes.mp4", "vp9", frames=75, size=(318, 178), sar="4/3")
    data = (folder / "bigbuckbunny.mp4").read_bytes()
    bad = folder / "bad"
    bad.mkdir()
    (bad / "empty.mp4").touch()
    (bad / "garbage.mp4").write_bytes(os.urandom(100_000))
    (bad / "page.mp4").write_text("<!DOCTYPE html><html><body>404 Not Found</body></html>" * 50)
    (bad / "notes.txt").write_text("call the crew")
    (bad / "truncated.mp4").write_bytes(data[: len(data) // 2])
    secret = tmp_path_factory.mktemp("elsewhere") / "secret.mp4"
    shutil.copy(folder / "bikes.mp4", secret)
    (bad / "playlist.mp4").write_text(
        f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile://{secret}\n#EXT-X-ENDLIST\n"
    )
    (bad / "concat.mp4").write_text(f"ffconcat version 1.0\nfile '{secret}'\n")
    ffmpeg("-f", "lavfi", "-i", "sine=d=2", bad / "sound.mp4")
    ffmpeg("-f", "lavfi", "-i", "testsrc=d=1", "-frames:v", "1", "-f", "gif", bad / "picture.mp4")
    for codec, place in (("png", folder / "photo.mp4"), ("mjpeg", bad / "torn.jpg")):
        still = ("-ss", "4", "-i", samples / "bikes.mp4", "-frames:v", "1", "-c:v", codec)
        ffmpeg(*still, "-f", "image2pipe", place)
    photo = (bad / "torn.jpg").read_bytes()
    (bad / "album.jpg").write_bytes(3 * photo)
    (bad / "torn.jpg").write_bytes(photo[: len(photo) // 2])
    ffmpeg("-f", "lavfi", "-i", "color=s=12000x12000:r=1", "-frames:v", "1", "-c:v", "png", bad / "bomb.png")
    ffmpeg("-f", "lavfi", "-i", "color=s=12000x12000:r=1", "-frames:v", "2", "-c:v", "mjpeg", bad / "bomb.mkv")
    for name in ("segfault.mp4", "hang.mp4"):  # long enough to be caught in the act; each with bytes of its own
        ffmpeg("-stream_loop", "30", "-i", folder / "bikes.mp4", "-c", "copy", "-metadata", f"title={name}", bad / name)
    return folder


@pytest.fixture(scope="module")
def run(raw, tmp_path_factory) -> tuple[Path, str]:
    """(dataset, what the command printed) of one run over all of it; two decoders get real signals meanwhile."""
    output = tmp_path_factory.mktemp("out") / "dataset"
    with signalled({"segfault.mp4": signal.SIGSEGV, "hang.mp4": signal.SIGSTOP}) as hit:
        text = curate(
            raw, output, "decode.stall_s=5", "report.enabled=true", "decode.max_pixels=100000000", config=CONFIG
        )
    assert hit == {"segfault.mp4", "hang.mp4"}
    return output, text


def test_every_file_is_a_row_with_its_reason(run):
    output, text = run
    videos = {Path(row["uri"]).name: row for row in table(output, "videos")}
    assert set(videos) == GOOD | set(REASONS) | {"same bytes.mov"}
    for name, reason in REASONS.items():
        assert videos[name]["status"] == "failed", name
        assert videos[name]["reason"].startswith(reason), (name, videos[name]["reason"])
    assert {name for name, row in videos.items() if row["status"] == "ok"} == GOOD
    copy = videos["same bytes.mov"]
    assert (copy["status"], copy["duplicate_of"]) == ("duplicate", videos["bikes.mp4"]["uri"])
    assert copy["video_id"] == videos["bikes.mp4"]["video_id"]
    assert "6 ok + 15 failed + 1 duplicate" in " ".join(text.split())


def test_tables_have_the_documented_columns_and_add_up(run):
    output, _ = run
    videos, clips, selection = (table(output, name) for name in ("videos", "clips", "selection.parquet"))
    assert set(videos[0]) == {column.name for column in VIDEOS}
    assert set(clips[0]) == set(clip_schema().names)
    assert [row["clip_id"] for row in clips] == [row["clip_id"] for row in selection]
    assert all(row["kept"] or (row["drop_reason"] and row["drop_reasons"]) for row in selection)
    status = json.loads(rushes("status", output, "--json"))
    assert status["videos"] == {"ok": 6, "failed": 15, "duplicate": 1}
    assert status["clips"]["kept"] + status["clips"]["dropped"] == len(clips)
    assert status["clips"]["kept"] == sum(row["kept"] for row in selection)


def test_kept_clips_are_the_source_frames_bit_for_bit(run, raw):
    output, _ = run
    source = {row["video_id"]: row["uri"] for row in table(output, "videos") if row["status"] == "ok"}
    kept = {row["clip_id"] for row in table(output, "selection.parquet") if row["kept"]}
    assert len(kept) >= 4
    pictures = [clip for clip in table(output, "clips") if clip["image"]]
    assert [clip["clip_id"] in kept for clip in pictures] == [True]
    for clip in table(output, "clips"):
        if clip["clip_id"] not in kept:
            assert clip["media"] is None
            continue
        assert clip["cut"] == "copy", clip["cut_reason"]
        span = (clip["start_frame"], clip["end_frame"])
        assert frame_md5(output / clip["media"]) == frame_md5(Path(source[clip["video_id"]]), span)


def test_a_run_leaves_its_configuration_metrics_and_log(run):
    output, _ = run
    (folder,) = (output / "runs").iterdir()
    names = {path.name for path in folder.iterdir()}
    assert {"config.yaml", "revision.json", "metrics.jsonl", "log.txt"} <= names
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert Counter(row["status"] for row in metrics if row["stage"] == "scanning")["failed"] == 15
    assert yaml.safe_load((folder / "config.yaml").read_text())["decode"]["stall_s"] == 5
    assert not (output / ".tmp").exists() or not any((output / ".tmp").iterdir())
    assert (output / "report" / "index.html").stat().st_size < 25e6


def test_explain_tells_a_clips_story(run):
    output, _ = run
    dropped = next(row for row in table(output, "selection.parquet") if not row["kept"])
    text = rushes("explain", output, dropped["clip_id"], COLUMNS="200")
    assert dropped["drop_reason"] in text
    assert "sharpness >= " in text
    facts = json.loads(rushes("explain", output, dropped["clip_id"], "--json"))
    assert facts["clip"]["clip_id"] == dropped["clip_id"]
    assert "there is no clip" in rushes("explain", output, "nonsense", code=2)


@pytest.fixture
def small(samples, tmp_path) -> Path:
    folder = tmp_path / "raw"
    folder.mkdir()
    shutil.copy(samples / "bikes.mp4", folder)
    return folder


def test_later_runs_take_only_what_is_new_and_score_only_what_is_missing(small, samples, tmp_path):
    output = tmp_path / "dataset"
    strict = ["select.rules=[{duration_s: {min: 2}}, {sharpness: {min: 1000}}]", "scorers=[{kind: sharpness}]"]
    dry = rushes("curate", FRAMES, "--dry-run", f"input={small}", f"output={output}")
    assert "files to do" in dry
    assert not output.exists()
    assert "1 new or changed files" in curate(small, output, *strict)
    first = table(output, "clips")
    assert not any(row["media"] for row in first)

    # a looser threshold: decided without a decode, cut by the next run, nothing scored again
    loose = ["select.rules=[{duration_s: {min: 2}}]", "scorers=[{kind: sharpness}]"]
    settings = ["report.enabled=false", f"input={small}", f"output={output}"]
    told = rushes("select", FRAMES, *settings, *loose)
    assert "have no file yet" in told
    shutil.copy(samples / "carphone_pristine.mp4", small)
    assert "1 new or changed files (0.6 MB), 1 known ones" in curate(small, output, *loose)
    second = {row["clip_id"]: row for row in table(output, "clips")}
    for row in first:
        assert second[row["clip_id"]]["sharpness"] == row["sharpness"]
        assert (second[row["clip_id"]]["media"] is not None) == (row["duration_s"] >= 2)
    scans = sorted((output / "scan").iterdir())
    assert len(scans) == 2

    # a new scorer fills its own column of the old clips and touches nothing else
    more = ["select.rules=[{duration_s: {min: 2}}]", "scorers=[{kind: sharpness}, {kind: exposure}]"]
    assert "0 new or changed files" in curate(small, output, *more)
    third = {row["clip_id"]: row for row in table(output, "clips")}
    assert all(row["exposure"] is not None for row in third.values() if row["duration_s"] >= 1)
    assert all(third[name]["sharpness"] == second[name]["sharpness"] for name in second)
    assert sorted((output / "scan").iterdir()) == scans
    assert {path.name for path in (output / "scores").iterdir()} == {"exposure"}

    # other shots would be other clips: refused before any work
    refused = curate(small, output, "shots={kind: stride}", *loose, code=2)
    assert "other `shots:` settings" in refused


def test_forget_removes_and_blocks(small, tmp_path):
    output = tmp_path / "dataset"
    curate(small, output, "select=all")
    video_id = table(output, "videos")[0]["video_id"]
    assert list((output / "media").rglob("*.mp4"))
    rushes("forget", output, video_id[:16], "--yes")
    assert not list((output / "media").rglob("*.mp4"))
    for part in output.rglob("*.parquet"):
        if "tombstones" not in part.parts:
            assert video_id not in str(table(output, str(part.relative_to(output))))
    curate(small, output, "select=all")
    (row,) = table(output, "videos")
    assert row["status"] == "failed"
    assert row["reason"].startswith("forgotten: taken down on ")
    assert table(output, "clips") == []


def test_wrong_configuration_is_refused_before_work(small, tmp_path):
    output = tmp_path / "dataset"
    for override, words in [
        ("inptu=x", "did you mean 'input'"),
        ("select.rules=[{sharpnes: {min: 1}}]", "sharpnes"),
        ("shots={kind: magic}", "magic"),
        ("input=/nowhere/at/all", "does not exist"),
    ]:
        assert words in curate(small, output, override, code=2)
    assert not (output / "scan").exists()
