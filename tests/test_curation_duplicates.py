"""Near-duplicates: stored pairs against plain brute force, what stays, and the cap on neighbours."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from curation.dataset.records import embeddings
from curation.duplicates import pairs as stored_pairs
from curation.duplicates.choose import choose, graph, ranked
from curation.duplicates.config import NearDuplicates
from curation.duplicates.pairs import PAIRS, ensure_pairs, read_pairs, stored
from curation.duplicates.search import rounded, similar_pairs
from curation.duplicates.vectors import gather, unit
from orchestration.errors import RushesError
from orchestration.storage import Storage


def groups(seed: int, sizes: list[int], width: int = 16, noise: float = 0.05) -> np.ndarray:
    """[n, width] float16 of unit length: for each size so many vectors around a random one."""
    random = np.random.default_rng(seed)
    centres = np.repeat(random.normal(size=(len(sizes), width)), sizes, axis=0)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    vectors = unit(centres + noise * random.normal(size=centres.shape)).astype(np.float16)
    return vectors[random.permutation(len(vectors))]


def names(count: int) -> list[str]:
    return [f"c{i:05d}" for i in range(count)]


def commit(storage: Storage, clip_ids: list[str], vectors: np.ndarray, measured: str = "embedding:1:a", key: str = "k"):
    clips = [{"clip_id": name, "vector": vector} for name, vector in zip(clip_ids, vectors, strict=True)]
    embeddings(storage).commit(key, {"key": key, "video_id": "v", "measured": measured, "clips": clips})


def cosines(vectors: np.ndarray) -> np.ndarray:
    vectors = unit(vectors)
    return rounded(vectors @ vectors.T)


def expected(vectors: np.ndarray, floor: float) -> set[tuple[int, int]]:
    a, b = np.nonzero(np.triu(cosines(vectors) >= rounded(floor), 1))
    return set(zip(a.tolist(), b.tolist(), strict=True))


def table(vectors: np.ndarray, clip_ids: list[str] | None = None) -> pa.Table:
    clips = [{"clip_id": n, "vector": v} for n, v in zip(clip_ids or names(len(vectors)), vectors, strict=True)]
    return pa.table({"clips": pa.array([clips], embeddings(Storage("/nowhere")).schema.field("clips").type)})


# Vectors


def test_vectors_are_sorted_by_clip_and_unsound_ones_left_out(tmp_path):
    vectors = np.array([[3, 4], [0, 0], [np.nan, 1], [0, 2], [1, 0]], np.float16)
    found = gather([table(vectors[:3], ["b", "x", "y"]), table(vectors[3:], ["a", "b"])], tmp_path)
    assert found.clip_ids.to_pylist() == ["a", "b"]
    assert found.rows(slice(None)) == pytest.approx(np.array([[0, 1], [0.6, 0.8]]), abs=1e-3)
    assert [path.name for path in tmp_path.iterdir()] == ["vectors"]


def test_vectors_of_several_widths_are_refused(tmp_path):
    with pytest.raises(RushesError, match="2 and of 3 numbers"):
        gather([table(np.ones((1, 2), np.float16)), table(np.ones((1, 3), np.float16))], tmp_path)


# Pairs


def test_brute_force_finds_every_pair(tmp_path):
    vectors = groups(0, [1] * 900 + [2] * 100 + [5] * 20)
    found = similar_pairs(gather([table(vectors)], tmp_path), 0.8)
    assert set(zip(found.a.tolist(), found.b.tolist(), strict=True)) == expected(vectors, 0.8)
    assert (found.similarity == cosines(vectors)[found.a, found.b]).all()
    assert not len(found.crowded)


def test_cells_find_nearly_every_pair_once_whatever_the_order(tmp_path):
    vectors = groups(1, [1] * 2000 + [3] * 200, width=64, noise=0.03)
    clip_ids = names(len(vectors))
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    whole = gather([table(vectors)], tmp_path / "one")
    parts = [
        table(vectors[start : start + 500], clip_ids[start : start + 500]) for start in range(0, len(vectors), 500)
    ]
    mixed = gather(reversed(parts), tmp_path / "two")
    found, again = (similar_pairs(each, 0.85, brute=100) for each in (whole, mixed))
    have = list(zip(found.a.tolist(), found.b.tolist(), strict=True))
    want = expected(vectors, 0.85)
    assert len(want) >= 500
    assert len(have) == len(set(have))
    assert set(have) <= want
    assert len(have) >= 0.98 * len(want)
    assert have == list(zip(again.a.tolist(), again.b.tolist(), strict=True))


@pytest.mark.parametrize("brute", [10_000, 100])
def test_missing_pairs_are_of_two_crowded_clips_and_no_better_than_those_that_are_there(tmp_path, brute):
    vectors = groups(2, [1] * 300 + [3] * 50 + [90, 200, 40], noise=0.02)
    found = similar_pairs(gather([table(vectors)], tmp_path), 0.9, most=8, brute=brute)
    have = set(zip(found.a.tolist(), found.b.tolist(), strict=True))
    limit = dict(zip(found.crowded.tolist(), found.limit.tolist(), strict=True))
    missing = expected(vectors, 0.9) - have
    assert len(missing) > 10_000
    assert len(have) <= 8 * len(vectors)
    cosine = cosines(vectors)
    if brute > len(vectors):
        assert all(cosine[a, b] <= min(limit[a], limit[b]) for a, b in missing)


def test_pairs_are_computed_once_and_again_when_vectors_or_floor_ask_for_it(tmp_path):
    storage = Storage(tmp_path)
    vectors = groups(3, [2] * 20)
    commit(storage, names(40)[:30], vectors[:30], key="k1")
    first = ensure_pairs(storage, 0.9)
    assert (first.floor, first.vectors) == (0.85, 30)
    before = (tmp_path / PAIRS).stat().st_mtime_ns, stored(storage)
    assert ensure_pairs(storage, 0.86) == first
    embeddings(storage).pack(at_least=1)  # other files, the same vectors
    assert ensure_pairs(storage, 0.95) == first
    assert ((tmp_path / PAIRS).stat().st_mtime_ns, stored(storage)) == before
    assert ensure_pairs(storage, 0.8).floor == 0.75
    assert ensure_pairs(storage, 0.9).floor == 0.75
    commit(storage, names(40)[30:], vectors[30:], key="k2")
    assert ensure_pairs(storage, 0.9).vectors == 40
    rows = [row for batch in read_pairs(storage) for row in batch.to_pylist()]
    have = {(int(row["clip_a"][1:]), int(row["clip_b"][1:])) for row in rows}
    assert have == expected(vectors, 0.85)


def test_embeddings_of_another_model_are_not_mixed_in(tmp_path):
    storage = Storage(tmp_path)
    commit(storage, names(4), groups(4, [4]), "embedding:1:a", "k1")
    commit(storage, names(6), groups(5, [6], width=8), "embedding:1:b", "k2")
    with pytest.raises(RushesError, match="several kinds"):
        ensure_pairs(storage, 0.9)
    assert ensure_pairs(storage, 0.9, "embedding:1:b").vectors == 6
    assert ensure_pairs(storage, 0.9).vectors == 6  # those of the last time
    assert ensure_pairs(storage, 0.9, "embedding:1:a").vectors == 4


def test_a_dataset_without_embeddings_has_no_pairs(tmp_path):
    storage = Storage(tmp_path)
    assert ensure_pairs(storage, 0.9).vectors == 0
    assert list(read_pairs(storage)) == []
    assert len(graph(read_pairs(storage), 0.9).clip_ids) == 0


def test_a_damaged_file_is_named(tmp_path):
    storage = Storage(tmp_path)
    storage.write_bytes(PAIRS, b"nothing of the kind")
    with pytest.raises(RushesError, match=r"pairs.parquet is damaged"):
        ensure_pairs(storage, 0.9)
    storage.write_table(PAIRS, pa.table({"clip_a": ["a"]}))
    with pytest.raises(RushesError, match=r"pairs.parquet is damaged"):
        ensure_pairs(storage, 0.9)


# Choice


def greedy(vectors: np.ndarray, threshold: float, order: np.ndarray, there: np.ndarray, forced: np.ndarray) -> set[int]:
    """Those that stay, in so many words."""
    cosine = cosines(vectors)
    stay: list[int] = []
    for place in order:
        if there[place] and (forced[place] or not (cosine[place, stay] >= rounded(threshold)).any()):
            stay.append(int(place))
    return set(stay)


@pytest.mark.parametrize(("seed", "most"), [(seed, most) for seed in range(4) for most in (2, 16, 500)])
def test_the_choice_is_the_plain_greedy_one_however_few_pairs_are_stored(tmp_path, monkeypatch, seed, most):
    monkeypatch.setattr(stored_pairs, "MOST", most)
    random = np.random.default_rng(seed)
    vectors = groups(seed, [1] * 50 + [2] * 20 + [7] * 8 + [60, 25], width=6, noise=0.15)
    count = len(vectors)
    storage = Storage(tmp_path)
    commit(storage, names(count), vectors)
    ensure_pairs(storage, 0.9)
    alike = graph(read_pairs(storage), 0.92)
    assert (len(alike.crowded) > 0) is (most < 500)
    places = np.array([int(name[1:]) for name in alike.clip_ids.to_pylist()])
    size, there, forced = random.integers(0, 4, count), random.random(count) < 0.8, random.random(count) < 0.05
    forced &= there
    order = ranked([size[places].astype(float)], [True], forced[places])
    found = choose(alike, there[places], forced[places], order)

    plain = np.lexsort([np.arange(count), -size, ~forced])
    stay = greedy(vectors, 0.92, plain, there, forced)
    dropped = {int(place) for place in places[found >= 0]}
    assert dropped == set(np.flatnonzero(there)) - stay
    assert len(dropped) > 50
    by = places[found[found >= 0]]
    assert set(by.tolist()) <= stay
    assert (cosines(vectors)[places[found >= 0], by] >= rounded(0.92)).all()


def test_no_chain_runs_through_a_clip_that_is_dropped(tmp_path):
    angles = np.radians([0, 20, 40])  # neighbours 0.94 alike, the ends 0.77
    storage = Storage(tmp_path)
    commit(storage, ["a", "b", "c"], np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float16))
    ensure_pairs(storage, 0.9)
    alike = graph(read_pairs(storage), 0.9)
    everyone, nobody = np.ones(3, bool), np.zeros(3, bool)
    assert choose(alike, everyone, nobody, np.array([0, 1, 2])).tolist() == [-1, 0, -1]
    assert choose(alike, everyone, nobody, np.array([1, 0, 2])).tolist() == [1, -1, 1]
    assert choose(alike, ~(np.arange(3) == 1), nobody, np.array([1, 0, 2])).tolist() == [-1, -1, -1]
    assert choose(alike, everyone, everyone, np.array([1, 0, 2])).tolist() == [-1, -1, -1]


def test_identical_clips_are_found_at_a_threshold_of_one(tmp_path):
    storage = Storage(tmp_path)
    vectors = np.repeat(groups(7, [1] * 20, width=1280), 2, axis=0)
    commit(storage, names(40), vectors)
    ensure_pairs(storage, 1.0)
    alike = graph(read_pairs(storage), 1.0)
    assert list(zip(alike.a.tolist(), alike.b.tolist(), strict=True)) == [(i, i + 1) for i in range(0, 40, 2)]


def test_the_order_puts_missing_values_last_and_ties_by_name():
    nan = np.nan
    size, text = np.array([720, nan, 720, 360, 720.0]), np.array([0.1, 0.0, 0.0, 0.0, nan])
    nobody = np.zeros(5, bool)
    assert ranked([size, text], [True, False], nobody).tolist() == [2, 0, 4, 3, 1]
    assert ranked([text, size], [False, True], np.arange(5) == 4).tolist() == [4, 2, 3, 1, 0]
    assert ranked([], [], nobody).tolist() == [0, 1, 2, 3, 4]


def test_settings():
    assert NearDuplicates().order[0] == ("crop_h", True)
    assert NearDuplicates(best=("-overlay_text", "crop_h")).order == (("overlay_text", False), ("crop_h", True))
    assert NearDuplicates(threshold=0.9).reason == "near-duplicate (>= 0.9)"
    for wrong in ((), ("-",), ("a", "-a")):
        with pytest.raises(ValueError, match="best is a list"):
            NearDuplicates(best=wrong)
    for wrong in (0, 1.1):
        with pytest.raises(ValueError, match="threshold"):
            NearDuplicates(threshold=wrong)
