"""Stretches of a learning job: every step once, cut where it must be, the same after a restart."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.refs import PolicyRef
from pipeline.training.batches import batches
from pipeline.training.job import LearnJob
from pipeline.training.segments import Lengths, Segment, first_batch, segments, steps_of

SIZES = {"batch_size": 3, "window": 9}


def make_job(epochs: int | None, max_steps: int | None) -> LearnJob:
    return LearnJob("evolve/0", None, PolicyRef("p", "p"), (), 0, epochs, max_steps, 1e-3)


def lengths_of(rows: int) -> Lengths:
    return Lengths([10 + row % 7 for row in range(rows)], [1 + row % 7 for row in range(rows)])


def steps(parts: list[Segment]) -> list[tuple[int, int]]:
    return [(part.epoch, step) for part in parts for step in range(part.first, part.last)]


JOBS = st.one_of(
    st.tuples(st.integers(1, 4), st.none()),
    st.tuples(st.none(), st.integers(1, 30)),
    st.tuples(st.integers(1, 4), st.integers(1, 30)),
)


@given(JOBS, st.integers(1, 25), st.one_of(st.none(), st.integers(1, 7)))
def test_every_step_once_whatever_the_cuts(
    kind: tuple[int | None, int | None], rows: int, every: int | None
) -> None:
    job, lengths = make_job(*kind), lengths_of(rows)
    parts = list(segments(job, lengths, every=every, **SIZES))
    whole = list(segments(job, lengths, every=None, **SIZES))
    assert steps(parts) == steps(whole)
    assert [part.cursor for part in parts] == sorted({part.cursor for part in parts})
    total = steps_of(job, lengths, **SIZES)
    assert parts[-1].cursor == total == len(steps(parts))
    assert job.max_steps is None or total <= job.max_steps
    assert job.epochs is None or {part.epoch for part in parts} <= set(range(job.epochs))
    if every is not None:
        assert all(part.save == (part.cursor % every == 0) for part in parts)
        assert all(part.last - part.first <= every for part in parts)


@given(JOBS, st.integers(1, 25), st.integers(1, 7), st.data())
def test_a_job_continued_from_any_checkpoint_does_exactly_the_rest(
    kind: tuple[int | None, int | None], rows: int, every: int, data: st.DataObject
) -> None:
    job, lengths = make_job(*kind), lengths_of(rows)
    parts = list(segments(job, lengths, every=every, **SIZES))
    cut = data.draw(st.integers(0, len(parts) - 1))
    rest = list(segments(job, lengths, every=every, cursor=parts[cut].cursor, **SIZES))
    assert rest == parts[cut + 1 :]


def test_rows_and_tokens_are_those_of_the_batches() -> None:
    job, lengths = make_job(2, None), lengths_of(10)
    parts = list(segments(job, lengths, every=2, **SIZES))
    assert sum(part.rows for part in parts) == 20
    assert sum(part.tokens for part in parts) == 2 * sum(lengths.response)
    plan_S = batches(lengths.whole, job.epoch_seed(0), **SIZES)
    assert first_batch(job, lengths, **SIZES) == plan_S[0]
    assert len({part.seed for part in parts}) == 2


def test_no_rows_no_steps() -> None:
    empty = Lengths([], [])
    assert list(segments(make_job(None, 5), empty, every=1, **SIZES)) == []
    assert steps_of(make_job(1, None), empty, **SIZES) == 0
