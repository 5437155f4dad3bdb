"""When the warm-up is flat, which policy is best, and that moments are never lost silently."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import LedgerNewer, RunStopped
from pipeline.phases.lineage import best_of, checkpoint_before, selections
from pipeline.phases.warmup import is_flat
from pipeline.refs import CheckpointRef
from pipeline.reports.summary import wall_seconds
from pipeline.run.events.wire import replay
from pipeline.run.state import JobState, ShardState, State


@pytest.mark.parametrize(
    ("greedy", "flat"),
    [
        ([], False),
        ([0.5], False),
        ([0.5, 0.5], False),
        ([0.5, 0.5, 0.5], True),
        ([0.5, 0.505, 0.509], True),
        ([0.5, 0.505, 0.511], False),
        ([0.5, 0.6, 0.6, 0.6], True),
        ([0.5, 0.6, 0.4, 0.62], False),
        ([0.5, 0.4, 0.3], True),
    ],
)
def test_flat_means_two_evaluations_without_a_rise(greedy: list[float], flat: bool) -> None:
    assert is_flat(greedy, window=2, gain=0.01) is flat


@given(st.lists(st.sampled_from([0.1, 0.2, 0.3]), min_size=1, max_size=6))
def test_ties_go_to_the_later_one(greedy: list[float]) -> None:
    best = best_of(greedy)
    assert greedy[best] == max(greedy)
    assert max(greedy) not in greedy[best + 1 :]


def checkpoint(job: str) -> CheckpointRef:
    return CheckpointRef(f"checkpoints/{job}", "0" * 64, job, 3, 3)


def test_a_job_continues_the_last_one_that_trained() -> None:
    state = State()
    assert checkpoint_before(state, "evolve", 0) is None
    state.jobs["evolve/0"] = JobState(checkpoint=checkpoint("evolve/0"), steps=3, done=True)
    state.jobs["evolve/1"] = JobState(done=True)
    assert checkpoint_before(state, "evolve", 2) == checkpoint("evolve/0")


def test_a_missing_checkpoint_stops_the_run_and_does_not_reset_the_optimizer() -> None:
    state = State()
    state.jobs["evolve/0"] = JobState(checkpoint=None, steps=3, done=True)
    with pytest.raises(RunStopped, match="evolve/0"):
        checkpoint_before(state, "evolve", 1)


def test_selections_are_in_plan_order_and_leave_out_the_empty_ones() -> None:
    def shard(name: str, kept: int) -> ShardState:
        return ShardState(name, "r", 4, 9, grades="g", selected=name, coverage={"kept": kept})

    state = State(shards={"evolve/0": {2: shard("c", 1), 0: shard("a", 2), 1: shard("b", 0)}})
    assert selections(state, "evolve/0") == ("a", "c")


def test_an_unknown_event_is_refused() -> None:
    with pytest.raises(LedgerNewer, match="'tomorrow', unknown to this version"):
        replay([{"type": "tomorrow"}])


def test_time_is_summed_over_drivers_and_never_runs_backwards() -> None:
    state = State()
    created = {"config": {}, "config_hash": "", "data": {}, "queries": "", "versions": {}}
    events = [
        {"type": "run_created", "stage": "prepare", "at": 1.0, **created},
        {"type": "warmup_chosen", "name": "a", "stage": "x", "at": 4.0},
        {"type": "driver_started", "stage": "prepare", "at": 0.5, "versions": {}},
        {"type": "warmup_chosen", "name": "a", "stage": "x", "at": 2.5},
    ]
    state.policies["a"] = state.policies["b"] = None  # type: ignore[assignment]
    replay(events, state)
    assert state.stage_s == {"prepare": 1.5, "x": 5.0}
    # The last moments of both drivers.
    assert wall_seconds(state) == 4.0 + 2.5
