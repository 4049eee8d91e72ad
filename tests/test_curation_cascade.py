"""Picture scorers look only at clips that the rules still keep; what is missing is measured when it is asked for."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pytest
from helpers_curate import contents, table
from helpers_inprocess import House
from helpers_media import make_video

from curation.config import CurateConfig
from curation.dataset.forget import forget
from curation.dataset.records import token
from curation.sandbox import Sandbox
from curation.scorers.embedding import Embedding
from curation.scorers.text import Text
from curation.video import ClipView
from orchestration.errors import ConfigError
from orchestration.storage import Storage

FRAMES = [{"kind": "borders"}, {"kind": "sharpness"}]
PICTURES = [{"kind": "text", "side": 128}, {"kind": "embedding"}]
SHOTS = {"kind": "stride", "seconds": 1.5}
TEXT, EMBEDDING = (token(scorer) for scorer in (Text(side=128), Embedding()))


@pytest.fixture(scope="module")
def house(samples, tmp_path_factory):
    """Three videos of two clips each."""
    raw = tmp_path_factory.mktemp("raw")
    for name in ("bikes", "bigbuckbunny", "carphone_pristine"):
        make_video(raw / f"{name}.mp4", samples / f"{name}.mp4", frames=72, size=(320, 180))
    with pytest.MonkeyPatch.context() as patch:
        yield House(raw, tmp_path_factory.mktemp("cache"), patch)


def settings(*rules: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"scorers": [*FRAMES, *PICTURES], "shots": SHOTS, "select": {"rules": rules}, "cut": {"mode": "none"}} | more


def clips(output: Path) -> dict[str, dict[str, Any]]:
    return {row["clip_id"]: row for row in table(output, "clips")}


def vectors(output: Path) -> dict[str, list[float]]:
    found = {}
    for row in ds.dataset(output / "embeddings", format="parquet").to_table().to_pylist():
        assert row["measured"] == EMBEDDING
        found |= {clip["clip_id"]: clip["vector"] for clip in row["clips"]}
    return found


@pytest.fixture(scope="module")
def everything(house: House, tmp_path_factory) -> Path:
    """A dataset in which every scorer has looked at every clip."""
    output = tmp_path_factory.mktemp("all") / "dataset"
    house.curate(output, **settings({"sharpness": {"min": 0}}, score_all=True))
    return output


@pytest.fixture
def limit(everything: Path) -> float:
    """A sharpness that half of the clips have."""
    values = sorted(row["sharpness"] for row in clips(everything).values())
    return (values[len(values) // 2 - 1] + values[len(values) // 2]) / 2


def test_all_clips_are_looked_at_where_that_is_asked_for(everything: Path):
    rows = clips(everything)
    assert len(rows) == 6
    for row in rows.values():
        assert {TEXT, EMBEDDING} < set(row["measured"])
        assert row["text_area"] is not None
        assert row["embedding"] == "efficientnet-lite0"
    assert set(vectors(everything)) == set(rows)
    for vector in vectors(everything).values():
        assert sum(value * value for value in vector) == pytest.approx(1, abs=1e-2)


def test_what_the_rules_drop_is_not_looked_at(house: House, everything: Path, limit: float, tmp_path: Path):
    house.curate(tmp_path / "d", **settings({"sharpness": {"min": limit}}, {"text_area": {"max": 1}}))
    whole, rows = clips(everything), clips(tmp_path / "d")
    looked = {name for name, row in rows.items() if TEXT in row["measured"]}
    assert looked == {name for name, row in whole.items() if row["sharpness"] >= limit}
    assert 0 < len(looked) < len(rows)
    for name, row in rows.items():
        assert row["text_area"] == (whole[name]["text_area"] if name in looked else None)
    assert set(vectors(tmp_path / "d")) == looked
    decided = {row["clip_id"]: row for row in table(tmp_path / "d", "selection.parquet")}
    assert {name for name, row in decided.items() if row["kept"]} == looked
    assert all(f"sharpness < {limit}" in row["drop_reason"] for row in decided.values() if not row["kept"])


def test_each_picture_scorer_sees_what_the_ones_before_it_leave(house: House, tmp_path: Path):
    house.curate(tmp_path / "d", **settings({"text_lines": {"min": 1000}}))
    rows = clips(tmp_path / "d")
    assert all(TEXT in row["measured"] and EMBEDDING not in row["measured"] for row in rows.values())
    assert not (tmp_path / "d" / "embeddings").exists()


def test_a_looser_rule_looks_at_the_clips_that_come_back_and_no_others(
    house: House, everything: Path, limit: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    output = tmp_path / "d"
    loose = settings({"sharpness": {"min": 0}})
    house.curate(output, **settings({"sharpness": {"min": limit}}))
    before = clips(output)
    seen: list[str] = []
    setup = Text.setup

    def watched(scorer: Text) -> Any:
        look = setup(scorer)

        def watching(views: list[ClipView]) -> Any:
            seen.extend(view.row["clip_id"] for view in views)
            return look(views)

        return watching

    monkeypatch.setattr(Text, "setup", watched)
    house.curate(output, **loose)
    assert sorted(seen) == sorted(name for name, row in before.items() if TEXT not in row["measured"])
    expected, found = contents(everything), contents(output)
    for name in ("videos", "clips"):  # but for decisions: as if all had been measured at once
        assert found[name] == expected[name]
    assert vectors(output) == vectors(everything)
    seen.clear()
    decodes: list[str] = []
    monkeypatch.setattr(Sandbox, "run", lambda *arguments, **named: decodes.append(named["path"]))
    house.curate(output, **loose)
    assert not seen + decodes


def test_other_settings_are_other_scores(house: House, everything: Path, tmp_path: Path):
    output = tmp_path / "d"
    shutil.copytree(everything, output)
    changed = settings({"sharpness": {"min": 0}}, score_all=True)
    changed["scorers"] = [*FRAMES, {"kind": "text", "side": 128, "pictures": 1}, {"kind": "embedding", "device": "cpu"}]
    house.curate(output, **changed)
    again = token(Text(side=128, pictures=1))
    for row in clips(output).values():
        assert again in row["measured"]
        assert EMBEDDING in row["measured"]  # where a model runs changes nothing
    assert len(list((output / "embeddings").iterdir())) == len(list((everything / "embeddings").iterdir()))


def test_a_clip_that_a_scorer_fails_on_is_null_and_its_neighbours_are_not(
    house: House, everything: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    setup, victim = Text.setup, min(clips(everything))

    def fragile(scorer: Text) -> Any:
        look = setup(scorer)

        def breaking(views: list[ClipView]) -> Any:
            if any(view.row["clip_id"] == victim for view in views):
                raise ValueError("an odd picture")
            return look(views)

        return breaking

    monkeypatch.setattr(Text, "setup", fragile)
    house.curate(tmp_path / "d", **settings({"text_area": {"max": 1}}))
    whole = clips(everything)
    for name, row in clips(tmp_path / "d").items():
        assert row["text_area"] == (None if name == victim else whole[name]["text_area"])
    decided = {row["clip_id"]: row for row in table(tmp_path / "d", "selection.parquet")}
    assert decided[victim]["drop_reason"] == "text_area: not scored"
    assert [name for name, row in decided.items() if not row["kept"]] == [victim]


def test_takedown_removes_vectors_and_scores(everything: Path, tmp_path: Path):
    output = tmp_path / "d"
    shutil.copytree(everything, output)
    gone = table(output, "videos")[0]["video_id"]
    assert any(name.startswith(gone[:16]) for name in vectors(output))
    forget(Storage(str(output)), gone)
    left = vectors(output)
    assert left
    assert not any(name.startswith(gone[:16]) for name in left)


def test_settings_that_cannot_work_are_refused_before_any_work(house: House, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"no file /nowhere\.onnx"):
        house.curate(tmp_path / "d", scorers=[{"kind": "text", "model": "/nowhere.onnx"}])
    assert not (tmp_path / "d" / "scan").exists()
    with pytest.raises(ValueError, match=r"ray.worker_gpus"):
        CurateConfig(input="a", output="b", scorers=[{"kind": "text", "device": "cuda"}])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="listed twice"):
        CurateConfig(input="a", output="b", scorers=[{"kind": "text"}, {"kind": "text"}])  # type: ignore[list-item]
