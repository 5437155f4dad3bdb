"""How many engines a pool keeps."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipeline.generation.pool_size import PoolLimits, PoolLoad, pool_size

LIMITS = PoolLimits(least=1, most=8, inflight=2, idle_s=300.0)


@st.composite
def limits(draw: st.DrawFn) -> PoolLimits:
    least = draw(st.integers(0, 8))
    return PoolLimits(least, draw(st.integers(max(1, least), 9)), draw(st.integers(1, 3)), 300.0)


@st.composite
def loads(draw: st.DrawFn) -> PoolLoad:
    busy = draw(st.integers(0, 8))
    idle = draw(st.lists(st.sampled_from([0.0, 299.0, 300.0, 900.0]), max_size=8))
    outstanding = busy + draw(st.integers(0, 40)) if busy else draw(st.integers(0, 40))
    return PoolLoad(outstanding, busy, tuple(idle), draw(st.booleans()))


@given(loads(), limits())
def test_whoever_works_stays_and_nobody_beyond_the_most_is_asked_for(
    load: PoolLoad, limits: PoolLimits
) -> None:
    there = load.busy + len(load.idle_s)
    size = pool_size(load, limits).members
    assert size >= load.busy
    assert size <= max(limits.most, load.busy)
    if not load.outstanding or load.yielding:
        assert size <= there  # nothing starts without work, or while another role waits


@given(loads(), limits())
def test_work_has_whom_it_can_use_at_once(load: PoolLoad, limits: PoolLimits) -> None:
    size = pool_size(load, limits).members
    if load.outstanding and not load.yielding:
        assert size >= 1
        assert size >= limits.least
        assert size * limits.inflight >= load.outstanding or size >= limits.most


@given(loads(), limits())
def test_only_the_idle_are_given_back(load: PoolLoad, limits: PoolLimits) -> None:
    there = load.busy + len(load.idle_s)
    tired = sum(idle_s >= limits.idle_s for idle_s in load.idle_s)
    size = pool_size(load, limits).members
    if not load.yielding and there <= limits.most:
        assert size >= there - tired
        assert size >= min(limits.least, there)


@given(loads(), limits())
def test_a_size_that_was_taken_is_not_changed_again(load: PoolLoad, limits: PoolLimits) -> None:
    """Having grown or shrunk to a size, the same load asks for no other."""
    size = pool_size(load, limits).members
    idle = sorted(load.idle_s)[: max(0, size - load.busy)]
    idle += [0.0] * (size - load.busy - len(idle))
    after = PoolLoad(load.outstanding, load.busy, tuple(idle), load.yielding)
    assert pool_size(after, limits).members == size


def test_a_pool_breathes() -> None:
    assert pool_size(PoolLoad(32, 0, ()), LIMITS).members == 8
    assert pool_size(PoolLoad(3, 2, (10.0,) * 6), LIMITS).members == 8  # not idle for long
    assert pool_size(PoolLoad(3, 2, (300.0,) * 6), LIMITS).members == 2  # the tail
    assert pool_size(PoolLoad(0, 0, (300.0,) * 8), LIMITS).members == 1
    assert pool_size(PoolLoad(0, 0, (1.0,) * 8, yielding=True), LIMITS).members == 0
    assert pool_size(PoolLoad(0, 0, ()), LIMITS).members == 0
