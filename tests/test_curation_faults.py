"""Killed before every single change it makes to a dataset, and run again: the same tables and files."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from helpers_curate import table
from helpers_inprocess import House, everything
from helpers_media import ffmpeg, make_video

from curation.dataset.accounting import account
from curation.dataset.forget import forget
from orchestration.errors import RushesError
from orchestration.storage import Storage
from orchestration.tables import READY

SCORERS = [{"kind": "sharpness"}, {"kind": "exposure"}]
RULES = {
    "row by row": {"rules": [{"duration_s": {"min": 1}}]},  # cut while they are scanned
    "quantile": {"rules": [{"sharpness": {"best": "60%"}}]},  # cut on a second look
}


@pytest.fixture(scope="module")
def house(samples, tmp_path_factory):
    """Three videos of about two clips each, a copy of one, a picture, and a file that is no video."""
    raw = tmp_path_factory.mktemp("raw")
    for name in ("bikes", "bigbuckbunny", "carphone_pristine"):
        make_video(raw / f"{name}.mp4", samples / f"{name}.mp4", frames=75, size=(160, 90))
    shutil.copy(raw / "bikes.mp4", raw / "a copy.mp4")
    ffmpeg("-i", raw / "bikes.mp4", "-frames:v", "1", raw / "picture.png")
    (raw / "notes.txt").write_text("call the crew")
    with pytest.MonkeyPatch.context() as patch:
        yield House(raw, tmp_path_factory.mktemp("cache"), patch)


def settings(rules: str) -> dict:
    return {"scorers": SCORERS, "select": RULES[rules], "shots": {"kind": "stride", "seconds": 1.2}}


def changes(house: House, every: int, step):
    """Numbers of changes to be killed before, `every` so many, until `step(number)` says that nothing was killed."""
    for number in range(0, 1000, every):
        if not step(number):
            assert number >= 10
            return
    pytest.fail("it never ended")


def check_curate(house: House, tmp_path: Path, rules: str, every: int) -> None:
    house.curate(tmp_path / "undisturbed", **settings(rules))
    expected = everything(tmp_path / "undisturbed")
    assert any(name.startswith("media/") for name in expected)
    assert len(list((tmp_path / "undisturbed" / "clips").iterdir())) > 1
    whole = [len(expected["videos"]), len(expected["clips"])]
    output = tmp_path / "dataset"

    def step(number: int) -> bool:
        shutil.rmtree(output, ignore_errors=True)
        with house.killed_before(number) as hit:
            house.curate(output, **settings(rules))
        if (output / READY).exists():
            with pytest.raises(RushesError, match="being replaced"):
                account(Storage(output))
        else:  # what any tool reads in the folders is one whole publication, or none
            rows = [len(table(output, name)) if (output / name).exists() else 0 for name in ("videos", "clips")]
            assert rows in ([0, 0], whole)
        house.curate(output, **settings(rules))
        assert everything(output) == expected, f"killed before change {number}"
        return bool(hit)

    changes(house, every, step)


def check_forget(house: House, tmp_path: Path, every: int) -> None:
    """Also: the run after it, with the video's files still in the input, and a run between the kill and the rest."""
    curated, gone, later, output = (tmp_path / name for name in ("curated", "gone", "later", "dataset"))
    house.curate(curated, **settings("quantile"))
    video_id = next(row["video_id"] for row in table(curated, "videos") if row["uri"].endswith("bikes.mp4"))
    shutil.copytree(curated, gone)
    forget(Storage(gone), video_id)
    expected = everything(gone)
    shutil.copytree(gone, later)
    house.curate(later, **settings("quantile"))
    expected_later = everything(later)
    reasons = [row["reason"] for row in table(later, "videos") if row["video_id"] == video_id]
    assert len(reasons) == 2
    assert all(reason.startswith("forgotten") for reason in reasons)

    def step(number: int) -> bool:
        shutil.rmtree(output, ignore_errors=True)
        shutil.copytree(curated, output)
        with house.killed_before(number) as hit:
            forget(Storage(output), video_id)
        between = number % 3 == 0 and bool(hit) and number > 0
        if between:
            house.curate(output, **settings("quantile"))
            assert not any(row["video_id"] == video_id for row in table(output, "clips"))
        forget(Storage(output), video_id[:16])
        assert everything(output) == expected, f"killed before change {number}"
        metrics = "".join(path.read_text() for path in output.glob("runs/*/metrics.jsonl"))
        assert "bigbuckbunny.mp4" in metrics
        assert "bikes.mp4" not in metrics or between
        if number % 5 == 0:
            house.curate(output, **settings("quantile"))
            assert everything(output) == expected_later
        return bool(hit)

    changes(house, every, step)


@pytest.mark.parametrize("rules", RULES)
def test_a_run_killed_before_a_change_is_made_good_by_the_next(house, tmp_path, rules):
    check_curate(house, tmp_path, rules, every=11)


def test_a_takedown_killed_before_a_change_is_made_good_by_the_next(house, tmp_path):
    check_forget(house, tmp_path, every=3)


@pytest.mark.slow
@pytest.mark.parametrize("rules", RULES)
def test_a_run_killed_before_every_change(house, tmp_path, rules):
    check_curate(house, tmp_path, rules, every=1)


@pytest.mark.slow
def test_a_takedown_killed_before_every_change(house, tmp_path):
    check_forget(house, tmp_path, every=1)


def test_a_copy_that_is_found_later_changes_nothing_but_names(house, tmp_path, monkeypatch):
    """A file with known bytes is not decoded; if it is the canonical one now, the facts are those of the known one."""
    raw = tmp_path / "raw"
    raw.mkdir()
    shutil.copy(house.raw / "bikes.mp4", raw / "m.mp4")
    shutil.copy(house.raw / "carphone_pristine.mp4", raw / "z.mp4")
    monkeypatch.setattr(house, "raw", raw)
    house.curate(tmp_path / "dataset", **settings("row by row"))
    shutil.copy(house.raw / "m.mp4", raw / "a.mp4")
    os.utime(raw / "z.mp4", (1, 1))
    accounts = house.curate(tmp_path / "dataset", **settings("row by row"))
    assert accounts.videos == {"ok": 2, "failed": 0, "duplicate": 1}
    house.curate(tmp_path / "fresh", **settings("row by row"))
    assert everything(tmp_path / "dataset") == everything(tmp_path / "fresh")
    videos = {Path(row["uri"]).name: row for row in table(tmp_path / "dataset", "videos")}
    assert {name: row["status"] for name, row in videos.items()} == {"a.mp4": "ok", "m.mp4": "duplicate", "z.mp4": "ok"}
    assert all(row["codec"] == "h264" and row["width"] == 160 for row in videos.values())
    assert videos["m.mp4"]["duplicate_of"] == videos["a.mp4"]["uri"]
