"""Takedown: what goes, what stays, and that nothing comes back."""

from __future__ import annotations

import json
import shutil

import pyarrow.parquet as pq
import pytest
from helpers_curate import table
from helpers_inprocess import House, everything
from helpers_media import make_video

from curation.dataset.accounting import account
from curation.dataset.forget import forget
from curation.dataset.records import cuts, scans, scores, tombstones
from curation.schema import CLIPS
from curation.scorers import score_columns
from curation.select import SELECTION, read_funnel, read_selection, select_dataset
from orchestration.errors import ConfigError, RushesError
from orchestration.storage import Storage

NAMES = ("bikes", "bigbuckbunny", "carphone_pristine")
SETTINGS = {
    "select": {"rules": [{"sharpness": {"best": "60%"}}]},
    "shots": {"kind": "stride", "seconds": 1.2},
}


@pytest.fixture(scope="module")
def house(samples, tmp_path_factory):
    raw = tmp_path_factory.mktemp("raw")
    for name in NAMES:
        make_video(raw / f"{name}.mp4", samples / f"{name}.mp4", frames=75, size=(160, 90))
    shutil.copy(raw / "bikes.mp4", raw / "copy.mp4")
    with pytest.MonkeyPatch.context() as patch:
        yield House(raw, tmp_path_factory.mktemp("cache"), patch)


@pytest.fixture(scope="module")
def curated(house, tmp_path_factory):
    """(dataset, id of the video that there is twice): scored in two runs, so that all ledgers have packs of several."""
    output = tmp_path_factory.mktemp("out") / "dataset"
    house.curate(output, scorers=[{"kind": "sharpness"}], **SETTINGS)
    house.curate(output, scorers=[{"kind": "sharpness"}, {"kind": "exposure"}], **SETTINGS)
    for name in ("index.html", "compare.html", "pages/captions.json"):
        Storage(output).write_bytes(f"report/{name}", b"pictures")
    return output, next(row["video_id"] for row in table(output, "videos") if row["uri"].endswith("bikes.mp4"))


@pytest.fixture
def dataset(curated, tmp_path):
    shutil.copytree(curated[0], tmp_path / "dataset")
    return tmp_path / "dataset", curated[1]


def test_everything_of_the_video_goes_and_nothing_of_the_others(dataset):
    output, video_id = dataset
    storage = Storage(output)
    assert all(len(table(output, folder)) == 3 for folder in ("scores/exposure", "cuts"))
    parts = [path for folder in ("scores/exposure", "cuts", "scan") for path in (output / folder).iterdir()]
    assert all(path.name.startswith("pack-") for path in parts)
    others = [row for row in table(output, "clips") if row["video_id"] != video_id]
    count = len(table(output, "clips")) - len(others)
    removed = forget(storage, video_id[:16])
    assert removed == {"clips": count, "rows": 2 + 2 + 1 + 1, "media": removed["media"]}
    assert removed["media"] >= 1

    assert table(output, "clips") == others
    everything(output)
    assert not (output / "report").exists()
    assert not (output / "media" / video_id).exists()
    for part in output.rglob("*.parquet"):
        if part.parent.name != "tombstones":
            text = str(pq.read_table(part).to_pylist())
            assert video_id not in text
            assert video_id[:16] not in text
    exposure = next(scorer for scorer in _config(output).scorers if scorer.kind == "exposure")
    for ledger in (scores(storage, exposure), cuts(storage)):  # packs keep all columns of the other rows
        rows = [row for part in ledger.read() for row in part.to_pylist()]
        assert len(rows) == 2
        assert all(row["clips"] and row["clips"][0]["clip_id"] for row in rows)
    metrics = "".join(path.read_text() for path in output.glob("runs/*/metrics.jsonl"))
    assert "bikes.mp4" not in metrics
    assert "copy.mp4" not in metrics
    assert metrics.count("carphone_pristine.mp4") == 3  # scanned, scored, cut
    assert all(json.loads(line) for line in metrics.splitlines())


def _config(output):
    import yaml

    from curation.config import CurateConfig

    newest = max(output.glob("runs/*/config.yaml"), key=lambda path: path.stat().st_mtime_ns)
    return CurateConfig.model_validate(yaml.safe_load(newest.read_text()))


def test_the_clips_that_are_left_are_decided_anew(dataset):
    output, video_id = dataset
    storage = Storage(output)
    forget(storage, video_id)
    funnel, decided = read_funnel(storage), table(output, SELECTION)
    rules = read_selection(storage)
    assert funnel is not None
    assert rules is not None
    accounts = account(storage)
    assert (funnel.clips, funnel.kept) == (sum(accounts.clips.values()), accounts.clips["kept"])
    select_dataset(storage, rules, (*CLIPS, *score_columns()))
    assert (read_funnel(storage), table(output, SELECTION)) == (funnel, decided)


def test_rules_that_cannot_be_applied_do_not_stop_a_takedown(dataset, house):
    output, video_id = dataset
    storage = Storage(output)
    overrides = output / "overrides.csv"
    overrides.write_text("clip_id,decision\n")
    rules = read_selection(storage)
    assert rules is not None
    rules = rules.model_copy(update={"overrides": overrides.name})
    select_dataset(storage, rules, (*CLIPS, *score_columns()))
    overrides.unlink()
    forget(storage, video_id)
    assert not storage.exists(SELECTION)
    with pytest.raises(RushesError, match="are not decided; run `rushes select`"):
        account(storage)
    house.curate(output, scorers=[{"kind": "sharpness"}, {"kind": "exposure"}], **SETTINGS)
    everything(output)


def test_its_files_in_the_input_stay_out_for_good(dataset, house):
    output, video_id = dataset
    storage = Storage(output)
    forget(storage, video_id)
    for _ in range(2):  # the second run finds the first one's rows, committed after the pack was made
        accounts = house.curate(output, scorers=[{"kind": "sharpness"}, {"kind": "exposure"}], **SETTINGS)
        assert accounts.videos == {"ok": 2, "failed": 2, "duplicate": 0}
        assert sum(part.num_rows for part in scans(storage).read(["listing_id"])) == 4
    assert forget(storage, video_id)["media"] == 0
    assert tombstones(storage).keys() == {video_id}


def test_unknown_and_short_ids_are_refused(dataset):
    output, video_id = dataset
    for wrong, words in ((video_id[:12], "at least 16"), ("0" * 16, "no video begins")):
        with pytest.raises(ConfigError, match=words):
            forget(Storage(output), wrong)
    assert not (output / "tombstones").exists()
