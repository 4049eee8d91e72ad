"""The latents' page: its numbers are those of the shards, its pictures too, and it comes out whatever is wrong."""

from __future__ import annotations

import base64
import html
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import tiny_vlm
from helpers_caption_tables import kept_clips, write_captions, write_version
from helpers_dataset import write_dataset
from test_latents_run import House, config

from captioning.todo import clip_rows
from curation.read import read_clip
from latents.config import LatentsConfig
from latents.dataset import LatentDataset
from latents.records import kind_of
from latents.report import page as pages
from latents.report.page import Amounts, latents_page
from latents.report.survey import survey_latents
from latents.report.write import write_report
from latents.show import psnr
from latents.vae import VideoEncoder
from orchestration.config import load_config
from orchestration.report import Page
from orchestration.storage import Storage

HOSTILE = "</script><script>alert(1)</script>\"'><img src=x onerror=alert(1)> {{ 7*7 }} \u202e&amp;"
BUCKETS = {"table": [[9, 24, 32], [9, 32, 24]], "multiple": 8}
RATE = 24.0


def video(path: Path, height: int, width: int, seed: int) -> Path:
    """Four seconds of a square that moves over a gradient."""
    rng = np.random.default_rng(seed)
    ground = np.linspace(40, 200, height * width * 3).reshape(height, width, 3) + rng.integers(0, 20, 3)
    frames = []
    for number in range(96):
        frame = ground.astype(np.uint8)
        top, left = (number // 2 + seed * 7) % (height - 16), (number + seed * 11) % (width - 16)
        frame[top : top + 16, left : left + 16] = rng.integers(0, 255, 3) if not number else frames[0][0]
        frames.append((frame[top, left], frame))
    clip = tiny_vlm.Clip(path.stem, "", "", [frame for _, frame in frames], [n / RATE for n in range(96)])
    return tiny_vlm.write_mp4(clip, path, RATE)


def change(root: Path, name: str, new: Callable[[dict[str, Any]], dict[str, Any] | None]) -> None:
    """Rows of a table; None: it goes."""
    path = root / name / "part-0.parquet"
    table = pq.read_table(path)
    rows = [made for row in table.to_pylist() if (made := new(row)) is not None]
    pq.write_table(table.from_pylist(rows, table.schema), path)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of a wide and a tall video, with a hostile caption for most kept clips."""
    folder = tmp_path_factory.mktemp("latents-report")
    files = [video(folder / "wide.mp4", 72, 96, 1), video(folder / "tall.mp4", 96, 72, 2)]
    root = folder / "dataset"
    write_dataset(root, videos=16, files=files, duplicates=0)
    short = kept_clips(root)[2]
    change(root, "clips", lambda row: row | ({"end_frame": row["start_frame"] + 5} if row["clip_id"] == short else {}))
    versions = [write_version(Storage(root), "<b>qwen</b>", 1)]
    texts = {"dense": HOSTILE, "short": "A square."}
    rows = write_captions(
        root, versions, kept_clips(root), fail=lambda _, at: at % 9 == 8, flag=lambda *_: False, changed=texts
    )
    assert len(rows) > 12
    return root


@pytest.fixture(scope="module")
def encoded(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """(the dataset with a set, its configuration, what the command said)."""
    folder = tmp_path_factory.mktemp("latents-encoded")
    root = Path(shutil.copytree(base, folder / "dataset"))
    with pytest.MonkeyPatch.context() as patch:
        path = config(folder, root, buckets=BUCKETS, report={"samples": 4})
        return root, path, House(patch).latents(path)


@pytest.fixture
def dataset(encoded: tuple[Path, Path, str], tmp_path: Path) -> Path:
    return Path(shutil.copytree(encoded[0], tmp_path / "dataset"))


def settings(folder: Path, root: Path, **sections: Any) -> LatentsConfig:
    return load_config(LatentsConfig, config(folder, root, **{"buckets": BUCKETS, "report": {"samples": 4}} | sections))


def section(page: Page, slug: str) -> str:
    return next(str(part.html) for part in page.sections if part.slug == slug)


def shown(text: str) -> str:
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", text))).strip()


def cells(text: str) -> list[list[str]]:
    return [
        [shown(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line, re.S)]
        for line in re.findall(r"<tr[^>]*>(.*?)</tr>", text, re.S)
    ]


def decoded(jpeg: bytes) -> np.ndarray:
    """RGB."""
    picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    return picture[..., ::-1]


def whole(page: Page) -> str:
    return shown(" ".join([part.lead + str(part.html) for part in page.sections]))


def test_the_command_writes_the_page_and_its_numbers_are_those_of_the_shards(encoded):
    root, _, said = encoded
    assert f"report: {root}/report/index.html" in said
    saved = json.loads((root / "report" / "pages" / "latents.json").read_text())
    parts = {slug: (lead, text) for _, slug, text, lead in saved["sections"]}
    samples = LatentDataset(root)
    shards = sorted((root / "latents").rglob("*.tar"))
    row = cells(parts["sets"][1])[1]
    assert row[0] == f"{samples.set} newest"
    assert "small#" in row[1]
    assert "float32 8 frames at once pictures whole, no tiling" in row[1]
    assert row[2:7] == [
        "mean and log-variance, float32",
        "left to the trainer",
        "<b>qwen</b>",
        str(len(samples)),
        str(len(shards)),
    ]
    assert parts["sets"][0] == f"{len(samples)} samples in {len(shards)} shards."
    rows = {line[0]: line for line in cells(parts["buckets"][1])[1:]}
    seconds = Counter()
    for sample in (samples[number] for number in range(len(samples))):
        seconds[sample.bucket] += sample.facts["bucket"][0] / sample.facts["fps"]
    assert len(seconds) >= 2
    for bucket, numbers in samples.buckets.items():
        line = rows[bucket.replace("x", " × ")]
        size = sum(shard.stat().st_size for shard in shards if shard.parent.name == bucket)
        assert line[2:4] == [str(len(numbers)), str(sum(shard.parent.name == bucket for shard in shards))]
        assert line[4] == f"{size / 1000:.3g} kB"
        assert line[5] == str(len(numbers))  # clips: one window each
        assert float(line[6].split()[0]) == pytest.approx(seconds[bucket], rel=0.01)
        assert line[7] == "100 %"  # of the picture: 4 to 3 both
    assert "Source left, reconstruction right" in parts["reconstructions"][0]
    assert "<script>alert" not in (root / "report" / "index.html").read_text()


def test_every_captioned_clip_is_in_the_account_once(encoded):
    root, path, _ = encoded
    rows = pq.read_table(root / "samples").to_pylist()
    train = {row["clip_id"] for row in pq.read_table(root / "captions").to_pylist() if row["train"]}
    ok = {row["clip_id"] for row in rows if row["status"] == "ok"}
    skipped = {row["clip_id"] for row in rows if row["status"] == "skipped"} & train
    assert skipped
    page = latents_page(Storage(root), load_config(LatentsConfig, path, ["report.samples=0"]))
    line = cells(section(page, "accounts"))[1]
    assert [int(cell.strip(" =+")) for cell in line[2:]] == [len(train), len(ok), 0, len(skipped), 0]
    reasons = Counter(kind_of(row["reason"]) for row in rows if row["clip_id"] in skipped)
    found = {name: int(count) for name, _, count in cells(section(page, "accounts"))[3:]}
    assert found == reasons
    kept = len(kept_clips(root))
    assert page.sections[1].lead == (
        f"{len(train)} of {kept} kept clips have a caption to train with; the other {kept - len(train)} can give no "
        "sample."
    )
    assert "None asked for" in section(page, "reconstructions")


def test_pictures_are_the_samples_own_and_psnr_is_that_of_source_and_reconstruction(encoded):
    root, path, _ = encoded
    given = load_config(LatentsConfig, path)
    page = latents_page(Storage(root), given)
    cards = section(page, "reconstructions").split("<article")[1:]
    assert len(cards) == 4
    samples, encoder = LatentDataset(root), VideoEncoder(given.vae)
    encoder.setup()
    values, buckets, videos, channels = [], set(), set(), []
    for card in cards:
        key = re.search(r'data-copy="([^"]+)"', card).group(1)  # type: ignore[union-attr]
        sample = samples[samples.find(key)]
        (row,) = clip_rows(Storage(root), {sample.facts["clip_id"]})
        _, height, width = sample.facts["bucket"]
        source = read_clip(row, sample.facts["frames"], (height, width), root=str(root))
        made = encoder.decode(sample.mean)
        values.append(psnr(source, made))
        channels.append(sample.mean.numpy() * encoder.facts["scaling_factor"])
        assert f"<b>{values[-1]:.1f} dB</b>" in card
        pictures = [decoded(base64.b64decode(data)) for data in re.findall(r"data:image/jpeg;base64,([^\"]+)", card)]
        middle = len(source) // 2
        assert len(pictures) == 2
        for picture, frames in zip(pictures, (source, made), strict=True):
            far = [np.abs(picture.astype(float) - frame).mean() for frame in (frames[middle], 255.0 - frames[middle])]
            assert far[0] < 12 < far[1]
        assert sample.facts["caption"] == HOSTILE
        assert HOSTILE in html.unescape(card)
        assert "<script" not in card
        buckets.add(sample.bucket)
        videos.add(key[:16])
    assert buckets == set(samples.buckets)
    assert len(videos) == 4
    assert f"mean PSNR {np.mean(values):.1f} dB" in whole(page)
    lines = cells(section(page, "statistics"))[1:]
    flat = np.concatenate([one.reshape(16, -1) for one in channels], 1)
    for number in range(16):
        found = [
            float(value.replace("−", "-").replace("×10", "e").translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")))
            for value in lines[number][2:]
        ]
        assert found == pytest.approx([flat[number].mean(), flat[number].std()], rel=0.06, abs=1e-5)
    assert latents_page(Storage(root), given).sections == page.sections  # always the same ones


def test_a_vae_that_cannot_be_loaded_or_is_another_one_is_said(dataset, tmp_path, monkeypatch):
    page = latents_page(Storage(dataset), settings(tmp_path, dataset, vae={"model": str(tmp_path / "gone")}))
    assert "No reconstructions: the VAE cannot be loaded: cannot use" in whole(page)
    assert len(cells(section(page, "statistics"))) == 18  # latents are there without it
    facts = VideoEncoder.facts.func
    monkeypatch.setattr(
        VideoEncoder, "facts", property(lambda self: facts(self) | {"weights": "0" * 64, "model": "other"})
    )
    page = latents_page(Storage(dataset), settings(tmp_path, dataset))
    assert "and the configuration names other" in whole(page)


def test_another_set_stands_beside_the_newest_and_what_is_damaged_is_named(dataset, tmp_path, monkeypatch):
    old = LatentDataset(dataset).set
    first = sorted((dataset / "latents").rglob("*.tar"))[0]
    said = House(monkeypatch).latents(
        config(tmp_path, dataset, buckets=BUCKETS, vae={"model": "small", "moments": "mean"}), "limit=6"
    )
    new = re.search(r"set ([0-9a-f]{16})", said).group(1)  # type: ignore[union-attr]
    data = bytearray(first.read_bytes())
    data[4096:] = bytes(len(data) - 4096)
    first.write_bytes(data)
    given = settings(tmp_path, dataset)
    page = latents_page(Storage(dataset), given)
    rows = cells(section(page, "sets"))[1:]
    assert [row[0] for row in rows] == [f"{new} newest", old]
    assert rows[0][2] == "mean only, float32"
    accounts = cells(section(page, "accounts"))
    assert accounts[1][0] == new
    assert int(accounts[1][6]) > 0  # not asked for: the limit
    assert accounts[2][5] == "? +"
    assert f"{first.name}, sample" in whole(page)
    given = settings(tmp_path, dataset, report={"samples": 0})
    again = latents_page(Storage(dataset), given, latest=old)
    assert [row[0] for row in cells(section(again, "sets"))[1:]] == [f"{old} last run", f"{new} newest"]
    (dataset / "latents" / "9x24x32" / "index.json").write_text("{}")
    assert "index.json: it is damaged or cut" in whole(latents_page(Storage(dataset), given))


def test_clips_that_are_gone_or_cannot_be_read_are_said_of_and_the_rest_is_shown(dataset, tmp_path):
    given = settings(tmp_path, dataset)
    names = [c.clip_id for one in survey_latents(Storage(dataset), 9).sets.values() for c in pages.choose(one, 4)]
    gone, unreadable = names[:2]
    broken = {unreadable: {"media": "media/gone.mp4"}}
    change(dataset, "clips", lambda row: None if row["clip_id"] == gone else row | broken.get(row["clip_id"], {}))
    page = latents_page(Storage(dataset), given)
    cards = {
        card.split('data-copy="')[1].split('"')[0]: shown(card)
        for card in section(page, "reconstructions").split("<article")[1:]
    }
    assert [("dB" in cards[f"{name}-w0"]) for name in names] == [False, False, True, True]
    assert "its clip is no longer in the clips table" in cards[f"{gone}-w0"]
    assert "gone.mp4" in cards[f"{unreadable}-w0"]
    assert "1 sample of clips that are gone" in whole(page)


def test_bytes_and_seconds_of_the_page_are_bounded(encoded):
    storage, given = Storage(encoded[0]), load_config(LatentsConfig, encoded[1], ["report.samples=1"])
    text = section(latents_page(storage, given, amounts=Amounts(picture_bytes=1)), "reconstructions")
    assert "Its pictures are left out" in text
    assert " dB</b>" in text
    assert "data:image" not in text
    text = section(latents_page(storage, given, amounts=Amounts(seconds=-1)), "reconstructions")
    assert "not decoded: the -1 s for decoding were over" in text


def test_without_tables_or_sets_or_anything_that_worked_the_page_still_comes_out(base, tmp_path, monkeypatch):
    empty = tmp_path / "empty"
    empty.mkdir()
    page = latents_page(Storage(empty), settings(tmp_path, empty))
    assert page.sections[0].lead == "There are no latents yet: rushes latents makes them."
    assert all("empty" in str(part.html) for part in page.sections)
    assert write_report(Storage(empty), settings(tmp_path, empty)) > 10_000
    page = latents_page(Storage(base), settings(tmp_path, base))
    assert page.sections[1].lead.startswith(f"{len(kept_clips(base)) - len(kept_clips(base)) // 9} of ")
    broken = Path(shutil.copytree(base, tmp_path / "broken"))
    change(broken, "videos", lambda row: row | {"uri": str(tmp_path / "nowhere.mp4")})
    said = House(monkeypatch).latents(config(tmp_path, broken, buckets=BUCKETS, report={"samples": 4}), "limit=5")
    assert "report: " in said
    saved = json.loads((broken / "report" / "pages" / "latents.json").read_text())
    parts = {slug: shown(text) for _, slug, text, _ in saved["sections"]}
    assert "Why samples of" in parts["accounts"]
    assert "No samples to decode." in parts["reconstructions"]


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("too short: 5 frames at 24 fps, the shortest bucket needs 9", "too short"),
        (
            "clip ab-1: cannot read media/ab/ab-1.mp4 in /data/x y: no video stream; restore it",
            "cannot read its file: no video stream",
        ),
        ("clip ab-1: took too long", "took too long"),
        ("", "no reason recorded"),
        (None, "no reason recorded"),
    ],
)
def test_reasons_of_one_kind_are_counted_together(reason, kind):
    assert kind_of(reason) == kind
