"""Which samples each step trains on: nothing left out, equal on any number of ranks, a function of the step alone."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestration.errors import ConfigError
from train.order import Order

SHAPES = ["1x32x32", "9x32x32", "17x16x32", "17x32x16"]


@st.composite
def orders(draw) -> tuple[Order, dict[str, range], dict[str, int]]:
    names = draw(st.lists(st.sampled_from(SHAPES), min_size=1, unique=True))
    buckets, batch, at = {}, {}, 0
    for name in names:
        count = draw(st.integers(1, 40))
        buckets[name] = range(at, at + count)
        batch[name] = draw(st.integers(1, count))
        at += count
    return Order(buckets, batch, draw(st.integers(0, 5)), "manifest"), buckets, batch


@settings(max_examples=60, deadline=None)
@given(orders())
def test_a_round_shows_every_sample_and_no_other(made) -> None:
    order, buckets, batch = made
    for number in range(3):
        seen: Counter[int] = Counter()
        for step in range(number * order.steps, (number + 1) * order.steps):
            found = order(step)
            assert len(found.samples) == batch[found.bucket]
            assert all(sample in buckets[found.bucket] for sample in found.samples)
            seen.update(found.samples)
        assert set(seen) == {sample for numbers in buckets.values() for sample in numbers} or number > 0
    everything: Counter[int] = Counter()
    for step in range(3 * order.steps):
        everything.update(order(step).samples)
    for (
        numbers
    ) in buckets.values():  # an endless stream of permutations: no sample is ahead of another by more than one
        counts = [everything[sample] for sample in numbers]
        assert max(counts) - min(counts) <= 1


@settings(max_examples=30, deadline=None)
@given(orders(), st.integers(0, 500))
def test_a_step_needs_nothing_but_its_number(made, step) -> None:
    order, _, _ = made
    for earlier in range(step % 7):
        order(earlier)
    first = order(step)
    assert order(step) == first
    whole = [sample for rank in range(1) for sample in first.of_rank(rank, 1)]
    assert tuple(whole) == first.samples


def test_ranks_share_a_batch() -> None:
    order = Order({"9x32x32": range(64)}, {"9x32x32": 8}, 0, "m")
    for size in (1, 2, 4, 8):
        parts = [order(3).of_rank(rank, size) for rank in range(size)]
        assert tuple(sample for part in parts for sample in part) == order(3).samples


def test_other_seeds_data_and_rounds_are_in_other_orders() -> None:
    buckets, batch = {"9x32x32": range(64)}, {"9x32x32": 64}
    found = {
        Order(buckets, batch, seed, manifest)(step).samples for seed in (0, 1) for manifest in "ab" for step in (0, 1)
    }
    assert len(found) == 8


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_pictures_have_their_share_and_nothing_is_shown_less(share) -> None:
    buckets = {"1x32x32": range(100), "9x32x32": range(100, 400)}
    order = Order(buckets, {"1x32x32": 10, "9x32x32": 10}, 0, "m", images=share)
    steps = [order(step) for step in range(order.steps)]
    pictures = sum(one.bucket == "1x32x32" for one in steps)
    assert pictures / len(steps) == pytest.approx(share, abs=0.02)
    assert {sample for one in steps for sample in one.samples} == set(range(400))
    assert all(one.bucket == "9x32x32" for one in map(Order(buckets, order._batch, 0, "m", images=0), range(50)))


def test_what_cannot_be_is_refused_with_what_to_change() -> None:
    with pytest.raises(ConfigError, match=r"bucket 9x32x32 has 4 samples, and a batch takes 8.*Lower the batch to 4"):
        Order({"9x32x32": range(4)}, {"9x32x32": 8}, 0, "m")
    with pytest.raises(ConfigError, match="bucket 9x32x32 has no sample: leave it out"):
        Order({"9x32x32": range(0)}, {"9x32x32": 8}, 0, "m")
    with pytest.raises(ConfigError, match="no bucket is of one frame"):
        Order({"9x32x32": range(8)}, {"9x32x32": 8}, 0, "m", images=0.2)
