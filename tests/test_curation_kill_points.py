"""SIGKILL of driver, worker or decoder just before each kind of change that an undisturbed run makes to files, and a
video that kills whoever opens it; on two cores."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from pathlib import Path

import pytest
from helpers_curate import contents, table
from helpers_kills import Place, Point, make_raw

SAMPLED = 4  # of a decoder's many files


@pytest.fixture(scope="module")
def raw(samples, tmp_path_factory) -> Path:
    return make_raw(tmp_path_factory.mktemp("raw"), samples)


@pytest.mark.slow
def test_killed_before_every_kind_of_change(raw, tmp_path):
    whole = Place(tmp_path / "whole", raw)
    done = whole.run()
    assert done.code == 0, done.text
    expected, decodes = contents(whole.output), whole.decodes()
    assert Counter(row["status"] for row in expected["videos"]) == {"ok": 22, "failed": 1, "duplicate": 1}
    assert any(name.startswith("vector of ") for name in expected)
    draw = random.Random(9)
    highest: dict[Point, int] = {}
    for point, count in whole.changes():
        highest[point] = max(count, highest.get(point, 0))
    arrays = [point for point in highest if "/tracks/" in point[2]]
    points = [point for point in highest if point not in arrays] + draw.sample(arrays, SAMPLED)
    roles = Counter(role for role, _, _ in points)
    assert len(points) >= 20
    assert min(roles[role] for role in ("driver", "worker", "decoder")) >= 1
    hits = 0
    for number, point in enumerate(points):
        place = Place(tmp_path / str(number), raw)
        first = place.run(kill=[*point, draw.randint(1, highest[point])])
        hits += place.killed
        what = f"{point}\n{first.text[-2500:]}"
        assert first.code == (-9 if point[0] == "driver" and place.killed else 0), what
        again = place.run()
        assert again.code == 0, f"{what}\nand again:\n{again.text[-2000:]}"
        assert contents(place.output) == expected, what
        place.assert_tidy()
        replayed = place.decodes() - decodes
        assert replayed <= 0.1 * decodes, f"{replayed} of {decodes} decodes were done again: {what}"
        print(f"killed {place.killed}, {replayed} decodes again: {point}")
        shutil.rmtree(tmp_path / str(number))
    print(f"{len(points)} points ({dict(roles)}), {hits} kills")
    assert hits >= 0.9 * len(points)  # a worker may come to less than in the undisturbed run


@pytest.mark.slow
@pytest.mark.parametrize("role", ["worker", "decoder"])
def test_a_video_that_kills_whoever_opens_it_is_one_row(raw, tmp_path, role):
    place = Place(tmp_path, raw)
    done = place.run(poison=[role, "video11.mp4"])
    assert done.code == 0, done.text
    rows = {Path(row["uri"]).name: row for row in table(place.output, "videos")}
    assert len(rows) == 24
    poison = rows.pop("video11.mp4")
    assert poison["status"] == "failed"
    assert "crashed" in poison["reason"]
    assert Counter(row["status"] for row in rows.values()) == {"ok": 21, "failed": 1, "duplicate": 1}
    place.assert_tidy()
