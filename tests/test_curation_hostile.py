"""Hostile input: every kind of broken, odd, lying and treacherous file in one run of `rushes curate`."""

from __future__ import annotations

import html
import os
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import pytest
from helpers_curate import FRAMES, command, table
from helpers_inprocess import House

from curation.config import CurateConfig
from curation.container import open_video
from curation.decode import DecodeConfig, decode, load_tracks
from curation.fetch import uri_of
from curation.media.integrity import integrity_check
from curation.plan import MeasurePlan
from curation.read import read_clip
from curation.report.write import write_report
from curation.video import Tracks
from orchestration.storage import Storage

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
from hostile_check import Verdict, judge
from hostile_damage import boxes, patched
from hostile_files import make_files
from hostile_foreign import FOREIGN, KIND, Canary
from hostile_masters import Masters
from hostile_names import NAMES
from hostile_reel import encode, number_of, reel
from hostile_truth import Made

sys.path.pop()
ZEROS = ("h264.mp4", "h264.ts", "hevc.mkv", "vp8.webm", "vp9.mp4", "av1.mp4", "mpeg4.avi")
UNSEEN = 0.2  # share of the broken files in clips of which damage may be that nothing gives away


@dataclass
class Outcome:
    """What one run left."""

    files: list[Made]
    folder: Path
    dataset: Path
    touched: list[str]
    verdicts: list[Verdict]


def run(folder: Path, small: bool) -> Outcome:
    canary = Canary(folder / "canary")
    try:
        files = make_files(folder, canary, small)
        canary.touched()
        dataset = folder / "dataset"
        paths = (f"input={folder / 'raw'}", f"output={dataset}")
        settings = (*paths, "select=all", "decode.stall_s=30", f"report.enabled={str(not small).lower()}")
        done = subprocess.run(
            command("curate", FRAMES, *settings), capture_output=True, text=True, timeout=2400, check=False, cwd="/"
        )
        assert done.returncode == 0, done.stdout + done.stderr
        touched = canary.touched()
    finally:
        canary.close()
    return Outcome(files, folder, dataset, touched, judge(files, folder, dataset))


@pytest.fixture(scope="module")
def few(samples, tmp_path_factory) -> Outcome:
    """One or two files of every kind."""
    return run(tmp_path_factory.mktemp("hostile"), True)


def check(outcome: Outcome) -> None:
    wrong = [f"{each.made.name!r} ({each.made.note}): {text}" for each in outcome.verdicts for text in each.complaints]
    assert not wrong, "\n".join(wrong)
    videos = table(outcome.dataset, "videos")
    uris = {uri_of(os.path.abspath(outcome.folder / "raw" / made.name)) for made in outcome.files}
    assert {row["uri"] for row in videos} == uris
    assert sum(Counter(row["status"] for row in videos).values()) == len(outcome.files)
    assert not outcome.touched, "a canary was opened"
    for row in table(outcome.dataset, "clips"):
        assert 0 <= row["start_s"] < row["end_s"] < 1e6 or row["image"], row["clip_id"]
    broken = [each for each in outcome.verdicts if each.made.unseen]
    unseen = [each.made.name for each in broken if each.unseen]
    assert len(unseen) <= max(UNSEEN * len(broken), 6), unseen


def test_every_file_has_a_true_row_and_true_clips(few):
    check(few)
    kept = sum(each.frames for each in few.verdicts)
    assert kept > 1000, "too few clips to show anything"


def test_names_stand_in_tables_and_report_as_text(masters, tmp_path, tmp_path_factory):
    """Every other name for a copy of one video, the rest for a text that is none: both lists of the report."""
    raw, output = tmp_path / "raw", tmp_path / "dataset"
    raw.mkdir()
    for number, name in enumerate(NAMES):
        (raw / name).write_bytes(b"call the crew" if number % 2 else masters.data("h264.mp4"))
    with pytest.MonkeyPatch.context() as patch:
        House(raw, tmp_path_factory.mktemp("cache"), patch).curate(output)
    wanted = {uri_of(str(raw / name)) for name in NAMES}
    rows = table(output, "videos")
    assert {row["uri"] for row in rows} == wanted
    assert Counter(row["status"] for row in rows)["ok"] == 1
    assert {row["status"] for row in rows} == {"ok", "duplicate", "failed"}
    write_report(Storage(str(output)), CurateConfig(input=str(raw), output=str(output)))
    page = (output / "report" / "index.html").read_text()
    for text in ("<img src=x onerror", "<b>bold", "]]>--><!--"):
        assert text not in page, "a name is taken for markup"
    shown = html.unescape(page)
    assert page.rstrip().endswith("</html>")
    assert sum(uri in shown for uri in wanted) > 10


def test_no_frame_of_the_canary_is_in_a_clip(few):
    videos = {row["video_id"]: row for row in table(few.dataset, "videos") if row["status"] == "ok"}
    names = {uri_of(os.path.abspath(few.folder / "raw" / m.name)) for m in few.files if m.kind == KIND}
    for clip in table(few.dataset, "clips"):
        if videos[clip["video_id"]]["uri"] in names:
            pictures = read_clip({**videos[clip["video_id"]], **clip}, root=str(few.dataset))
            assert not {number_of(picture) for picture in pictures} & set(FOREIGN)


def measured(path: Path, folder: Path) -> Tracks:
    folder.mkdir()
    return load_tracks(folder, decode(path, folder, DecodeConfig(), MeasurePlan(), lambda message: None))


@pytest.fixture(scope="module")
def masters(samples, tmp_path_factory) -> Masters:
    return Masters(tmp_path_factory.mktemp("masters"))


@pytest.mark.parametrize("name", ZEROS)
def test_zeros_in_coded_video_are_damage(masters, tmp_path, name):
    """As of a download that never came. Arithmetic decoders make pictures of them without a word."""
    data = bytearray(masters.data(name))
    with av.open(str(masters / name)) as container:
        sizes = [(packet.pos, packet.size, packet.pts) for packet in container.demux(video=0) if packet.size]
    place, size, _ = max(sizes[5:-15], key=lambda entry: entry[1])
    place += 200 if name.endswith(".ts") else size // 3  # there a packet is spread over several of the container's
    hole = slice(place, place + min(150, size // 2))
    assert hole.stop - hole.start > 40
    data[hole] = bytes(hole.stop - hole.start)
    (tmp_path / name).write_bytes(data)
    clean, broken = measured(masters / name, tmp_path / "clean"), measured(tmp_path / name, tmp_path / "broken")
    assert not clean.damaged.any()
    truth = set(clean.meters["frames"]["hashes"].tolist())
    wrong = np.array([value not in truth for value in broken.meters["frames"]["hashes"].tolist()])
    assert broken.damaged.any()
    assert not (wrong & ~broken.damaged).any()


@pytest.mark.parametrize(
    "name", [*ZEROS, "h264.avi", "hevc.ts", "mpeg1.mpg", "mpeg2.mxf", "av1.ivf", "av1.obu", "h264.h264"]
)
def test_no_undamaged_file_looks_torn(masters, name):
    container, stream = open_video(masters / name)
    with container:
        torn = integrity_check(stream.codec_context)
        assert not any(torn(bytes(packet)) for packet in container.demux(stream) if packet.size and torn)


@pytest.mark.parametrize("name", ["mpeg2.mpg", "h264.ts", "h264.mp4", "vp9.mp4"])
def test_long_runs_of_zeros_cost_no_time(masters, name):
    container, stream = open_video(masters / name)
    with container:
        torn = integrity_check(stream.codec_context)
    assert torn is not None
    begun = time.monotonic()
    for end in (b"\x01", b"\x02", b""):
        torn(b"\x00\x00\x01\x65" + bytes(20 * 10**6) + end)
    assert time.monotonic() - begun < 5


def test_stuffing_of_a_constant_rate_is_no_damage(masters, tmp_path):
    """Broadcasts and DVDs fill up with zeros what the picture does not need."""
    rate = ("-b:v", "4M", "-minrate", "4M", "-maxrate", "4M", "-bufsize", "500k")
    path = encode(tmp_path / "constant.mpg", reel(range(12), (720, 576)), "-c:v", "mpeg2video", *rate)
    assert b"\0" * 50 in path.read_bytes()
    assert not measured(path, tmp_path / "tracks").damaged.any()


def test_zeros_at_the_end_of_units_are_damage_unless_they_are_a_habit(masters):
    """AVC-Intra fills up its pictures with zeros."""
    container, stream = open_video(masters / "h264.mp4")
    with container:
        packets = [bytes(packet) for packet in container.demux(stream) if packet.size]
        once, always = integrity_check(stream.codec_context), integrity_check(stream.codec_context)
    assert once is not None
    assert always is not None
    torn = [once(packet[:-20] + bytes(20) if index == 30 else packet) for index, packet in enumerate(packets)]
    assert [index for index, each in enumerate(torn) if each] == [30]
    stuffed = []
    for packet in packets[1:]:  # the first has the encoder's own words in it
        size = int.from_bytes(packet[:4], "big")
        stuffed.append((size + 50).to_bytes(4, "big") + packet[4 : 4 + size] + bytes(50) + packet[4 + size :])
    assert [always(packet) for packet in stuffed] == [True] + [False] * (len(stuffed) - 1)


@pytest.mark.parametrize("name", ["prores.mov", "mjpeg.mov", "dnxhr.mov"])
def test_no_clip_reaches_across_a_picture_that_is_lost(masters, tmp_path, name):
    """Where each picture is a keyframe, the one after it is whole; the gap is the damage."""
    data = bytearray(masters.data(name))
    with av.open(str(masters / name)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    place, size = places[30]
    data[place : place + size] = bytes(size)
    (tmp_path / name).write_bytes(data)
    tracks = measured(tmp_path / name, tmp_path / "tracks")
    assert tracks.frames == len(places) - 1
    assert tracks.damaged[29:31].any()
    assert tracks.damaged.sum() <= 2


def test_a_size_that_nothing_has_is_damage_and_no_lack_of_memory(masters, tmp_path):
    data = bytearray(masters.data("vp9.ivf"))
    place = 32
    for _ in range(40):
        place += 12 + int.from_bytes(data[place : place + 4], "little")
    data[place : place + 4] = b"\xff\xff\xff\xff"
    (tmp_path / "claims.ivf").write_bytes(data)
    tracks = measured(tmp_path / "claims.ivf", tmp_path / "tracks")
    assert 38 <= tracks.frames <= 40
    assert tracks.damaged[-1]
    assert not tracks.damaged[:36].any()


def test_a_clock_that_leaps_by_years_is_not_believed(masters, tmp_path):
    data = bytearray(masters.data("vp9.ivf"))
    place = 32
    for _ in range(30):
        place += 12 + int.from_bytes(data[place : place + 4], "little")
    data[place + 4 : place + 12] = (2**61).to_bytes(8, "little")
    (tmp_path / "leaps.ivf").write_bytes(data)
    tracks = measured(tmp_path / "leaps.ivf", tmp_path / "tracks")
    assert tracks.end_time == pytest.approx(2.5, abs=0.1)


def test_a_display_matrix_of_zeros_turns_nothing(masters, tmp_path):
    path = tmp_path / "zeros.mp4"
    path.write_bytes(patched(masters.data("h264.mp4"), "tkhd", 40, bytes(36)))
    assert any(name == "tkhd" for name, _, _ in boxes(path.read_bytes()))
    assert measured(path, tmp_path / "tracks").info.rotation == 0


def test_a_videos_name_is_no_pattern_of_pictures(masters, tmp_path):
    path = tmp_path / "canary%03d.jpg"
    path.write_bytes(masters.data("h264.mp4"))
    (tmp_path / "canary001.jpg").write_bytes(b"\xff\xd8\xff")
    assert measured(path, tmp_path / "tracks").frames == 60


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_the_whole_set(samples, tmp_path):
    """Over 500 files, every container and codec."""
    outcome = run(tmp_path, False)
    assert len(outcome.files) >= 500
    check(outcome)
