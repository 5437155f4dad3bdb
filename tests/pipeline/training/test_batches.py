"""Batches and micro-batches: pure, complete, balanced, and equal work for every rank."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.training.batches import batches, micro_batches, shuffled

LENGTHS = st.lists(st.integers(1, 300), max_size=120)
SEEDS = st.integers(0, 2**31 - 1)
SIZES = st.integers(1, 40)


@given(LENGTHS, SEEDS, SIZES, st.integers(1, 90))
def test_every_row_is_in_exactly_one_batch(
    lengths: list[int], seed: int, size: int, window: int
) -> None:
    found = batches(lengths, seed, size, window)
    assert sorted(row for batch in found for row in batch) == list(range(len(lengths)))


@given(LENGTHS, SEEDS, SIZES, st.integers(1, 90))
def test_only_the_last_batch_is_smaller(
    lengths: list[int], seed: int, size: int, window: int
) -> None:
    sizes = [len(batch) for batch in batches(lengths, seed, size, window)]
    assert all(found == size for found in sizes[:-1])
    assert sum(sizes) == len(lengths)
    assert all(1 <= found <= size for found in sizes[-1:])


@given(LENGTHS, st.lists(st.integers(1, 300), max_size=50), SEEDS, SIZES, st.integers(1, 60))
def test_a_complete_window_is_settled_whatever_follows(
    lengths: list[int], more: list[int], seed: int, size: int, window: int
) -> None:
    whole = -(-window // size) * size
    settled = len(lengths) // whole * whole // size
    first = batches(lengths, seed, size, window)[:settled]
    assert first == batches(lengths + more, seed, size, window)[:settled]


@given(st.lists(st.integers(1, 300), min_size=16, max_size=120), SEEDS)
def test_batches_of_a_window_have_about_equally_many_tokens(lengths: list[int], seed: int) -> None:
    full = [batch for batch in batches(lengths, seed, 8, 4096) if len(batch) == 8]
    totals = [sum(lengths[row] for row in batch) for batch in full]
    # Longest first to the emptiest batch with room: never further apart than one row.
    assert max(totals) - min(totals) <= max(lengths)


def test_the_seed_alone_decides_the_order() -> None:
    lengths = [10] * 64
    assert batches(lengths, 1, 8) == batches(lengths, 1, 8)
    assert batches(lengths, 1, 8) != batches(lengths, 2, 8)
    assert batches(lengths, 1, 8)[0] != list(range(8))


def test_orders_never_change_between_versions() -> None:
    assert shuffled(8, 0, "window-0") == [2, 3, 7, 0, 6, 5, 4, 1]


@pytest.mark.parametrize(("size", "window"), [(0, 8), (8, 0)])
def test_sizes_below_one_are_refused(size: int, window: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        batches([1, 2], 0, size, window)


BATCHES = st.lists(st.tuples(st.integers(1, 300), st.booleans()), min_size=1, max_size=60)


@given(BATCHES, st.integers(1, 5), st.integers(1, 9))
def test_all_ranks_run_equally_many_micro_batches(
    rows: list[tuple[int, bool]], ranks: int, micro_batch: int
) -> None:
    plan_R_M = micro_batches([length for length, _ in rows], ranks, micro_batch)
    passes = -(-len(rows) // (ranks * micro_batch))
    assert [len(plan) for plan in plan_R_M] == [passes] * ranks
    assert all(len(micro.rows) <= micro_batch for plan in plan_R_M for micro in plan)
    dealt = sorted(row for plan in plan_R_M for micro in plan for row in micro.rows)
    assert dealt == list(range(len(rows)))


@given(BATCHES, st.integers(1, 5), st.integers(1, 9))
def test_every_pass_runs_the_same_modules(
    rows: list[tuple[int, bool]], ranks: int, micro_batch: int
) -> None:
    images = [image for _, image in rows]
    plan_R_M = micro_batches([length for length, _ in rows], ranks, micro_batch, images)
    for micro in (micro for plan in plan_R_M for micro in plan):
        everything = micro.rows + micro.anchors
        assert everything
        assert any(images[row] for row in everything) == any(images)
        assert not set(micro.rows) & set(micro.anchors)


@given(st.lists(st.integers(1, 300), min_size=1, max_size=60), st.integers(1, 4))
def test_passes_hold_rows_of_similar_length(lengths: list[int], ranks: int) -> None:
    plan_R_M = micro_batches(lengths, ranks, 4)
    spans = sorted(
        (min(lengths[row] for row in micro.rows), max(lengths[row] for row in micro.rows))
        for plan in plan_R_M
        for micro in plan
        if micro.rows
    )
    assert all(left[1] <= right[0] for left, right in itertools.pairwise(spans))


def test_ranks_take_turns_with_the_longer_pass() -> None:
    plan_R_M = micro_batches([8, 7, 6, 5, 4, 3, 2, 1], 2, 2)
    assert [[micro.rows for micro in plan] for plan in plan_R_M] == [
        [(0, 1), (6, 7)],
        [(2, 3), (4, 5)],
    ]


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one row"):
        micro_batches([], 1, 1)
