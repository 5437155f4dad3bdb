"""Every kind of damage to every kind of object, under a running driver: it is noticed and named,
made again where it can be, and never trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from pipeline.audit.diff import first_difference
from pipeline.audit.run import audit
from pipeline.errors import CorruptObject, RunStopped, StoreError, StoreRefused, StoreUnavailable
from pipeline.reports.comparison import compared_policies
from pipeline.reports.summary import summary
from pipeline.run.events.evaluation import Evaluated
from pipeline.run.events.event import Event
from pipeline.run.events.lifecycle import IterationClosed
from pipeline.run.events.training import CheckpointSaved
from pipeline.run.events.wire import replay
from pipeline.run.spec import evaluation_purpose
from pipeline.run.state import GREEDY
from pipeline.storage.backend import StoreFull
from tests.support.chaos_memory import Damage, damaged
from tests.support.chaos_world import RUN, Lives, undisturbed

HOW: tuple[Damage, ...] = ("flip", "cut", "empty", "remove")


@pytest.fixture
def lives(tmp_path: Path) -> Lives:
    return Lives(tmp_path)


def harm(lives: Lives, start: str, how: Damage, when: Callable[[Mapping[str, Any]], bool]) -> None:
    """Damage the newest object whose path begins with `start`, once, when an event is committed."""
    done: list[str] = []

    def react(event: Event) -> None:
        if not done and when(event.to_wire()):
            path = next(one for one in reversed(lives.memory.good) if one.startswith(start))
            lives.memory.lay(path, damaged(lives.memory.good[path], how, 77))
            lives.ever_damaged.add(path)
            done.append(path)

    lives.watch.react = react


def stays_whole(lives: Lives) -> None:
    """The run was finished as if nothing had been, and what the store holds is as it was made."""
    assert lives.outcome() == undisturbed()
    for path in lives.ever_damaged:
        if path in lives.memory.good and not path.startswith(f"runs/{RUN}/snapshots"):
            assert lives.memory.bytes_at(path) == lives.memory.good[path], path


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize(
    ("start", "kind", "purpose"),
    [
        ("shards/rollout", "shard_accepted", "evolve/1"),
        ("shards/select", "sampling_closed", "evolve/1"),
        ("shards/grade", "sampling_closed", "evaluate/"),
    ],
)
def test_a_shard_is_made_again(
    lives: Lives, start: str, kind: str, purpose: str, how: Damage
) -> None:
    harm(
        lives,
        start,
        how,
        lambda event: event["type"] == kind and event["purpose"].startswith(purpose),
    )
    assert lives.live() is not None
    assert [event["path"] for event in lives.events() if event["type"] == "object_lost"] == list(
        lives.ever_damaged
    )
    assert any("is made again" in line for line in lives.watch.said)
    stays_whole(lives)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("step", [1, 2])
def test_a_checkpoint_inside_a_job_costs_the_job_so_far(
    lives: Lives, step: int, how: Damage
) -> None:
    """At step 2 that of step 1 is retired, and comes back when the job starts again."""
    lives.learner_dies_at = step

    def saved(event: Mapping[str, Any]) -> bool:
        inside = event["type"] == "checkpoint_saved" and event["job"] == "evolve/1"
        return inside and event["checkpoint"]["cursor"] == step

    harm(lives, "checkpoints/", how, saved)
    harmed = lives.watch.react

    def react(event: Event) -> None:
        harmed(event)
        if isinstance(event, CheckpointSaved):
            assert lives.watch.context is not None
            assert event.checkpoint.path not in lives.watch.context.state.retired

    lives.watch.react = react
    assert lives.live(copies=False) is not None
    (lost,) = [event for event in lives.events() if event["type"] == "checkpoint_lost"]
    assert lost["job"] == "evolve/1"
    assert any("starts again from its beginning" in line for line in lives.watch.said)
    assert lives.outcome() == undisturbed()
    lives.check_checkpoints(replay(lives.events()))


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize(
    ("start", "kind", "job"),
    [("policies/", "job_done", "evolve/0"), ("checkpoints/", "iteration_closed", None)],
)
def test_a_policy_or_checkpoint_is_put_back_from_a_copy(
    lives: Lives, start: str, kind: str, job: str | None, how: Damage
) -> None:
    harm(lives, start, how, lambda event: event["type"] == kind and event.get("job") == job)
    assert lives.live() is not None
    assert any("has been put back" in line for line in lives.watch.said)
    stays_whole(lives)


@pytest.mark.parametrize("how", HOW)
def test_a_policy_without_a_copy_stops_the_run_by_name(lives: Lives, how: Damage) -> None:
    trained = ("job_done", "evolve/0")
    harm(lives, "policies/", how, lambda event: (event["type"], event.get("job")) == trained)
    with pytest.raises(RunStopped) as caught:
        lives.drive(copies=False)
    (path,) = lives.ever_damaged
    assert path.split("/")[2][:64] in str(caught.value)
    lives.heal()
    assert lives.live(copies=False) is not None
    stays_whole(lives)


@pytest.mark.parametrize("how", ["flip", "cut", "empty"])
def test_a_ledger_entry_stops_the_next_driver_by_name(lives: Lives, how: Damage) -> None:
    lives.live(lives.crash_at(400))
    path = max(one for one in lives.memory.good if one.startswith(f"runs/{RUN}/ledger"))
    lives.memory.lay(path, damaged(lives.memory.good[path], how, 77))
    with pytest.raises(CorruptObject) as caught:
        lives.drive()
    assert path in str(caught.value)
    lives.memory.lay(path, lives.memory.good[path])
    assert lives.live() is not None
    assert lives.outcome() == undisturbed()


def test_a_missing_ledger_entry_in_the_middle_stops_the_next_driver(lives: Lives) -> None:
    lives.live(lives.crash_at(250))
    path = f"runs/{RUN}/ledger/0000000007.json"
    lives.memory.lay(path, None)
    with pytest.raises(CorruptObject, match=r"0000000007.json is missing; there are later ones"):
        lives.drive()


@pytest.mark.parametrize("how", HOW)
def test_a_snapshot_costs_time_only(lives: Lives, how: Damage) -> None:
    lives.live(lives.crash_at(880))
    newest = max(one for one in lives.memory.good if one.startswith(f"runs/{RUN}/snapshots"))
    lives.memory.lay(newest, damaged(lives.memory.good[newest], how, 77))
    assert lives.live() is not None
    assert lives.outcome() == undisturbed()
    if how != "remove":
        assert any("using an earlier one" in line for line in lives.heard)
        assert any(path.startswith("quarantine/runs/") for path in lives.store.list("quarantine"))


# --- a store that is away, full, or refuses -------------------------------------------------------


@pytest.mark.parametrize("at", [30, 300, 500])
def test_a_store_that_is_gone_for_a_while_is_waited_for_and_said(lives: Lives, at: int) -> None:
    lives.fail_calls(at, 9, StoreUnavailable("no answer from the server"))
    assert lives.live() is not None
    waited = [line for line in lives.heard if "the store does not answer" in line]
    assert len(waited) == 9
    assert lives.clock.now > 8
    stays_whole(lives)


@pytest.mark.parametrize("at", [30, 300, 500])
@pytest.mark.parametrize(
    "error",
    [
        StoreFull("No space left on device. Free some space there, then start again."),
        StoreRefused("the server said 403 AccessDenied"),
        StoreUnavailable("no answer from the server"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_store_that_is_full_or_refuses_or_stays_away_stops_the_run(
    lives: Lives, at: int, error: StoreError
) -> None:
    """At once where asking again is no use; and the same command goes on once it is mended."""
    lives.fail_calls(at, 10**6, error)
    with pytest.raises(type(error)) as caught:
        lives.drive()
    assert str(error) in str(caught.value)
    waited = lives.clock.now > 30
    assert waited is isinstance(error, StoreUnavailable)
    lives.fail_calls(0, 0, error)
    assert lives.live() is not None
    stays_whole(lives)


# --- grades of evaluations that are summed up ----------------------------------------------------


def graded(lives: Lives, name: str) -> tuple[str, str]:
    """Rollout and grades of the first shard of a policy's greedy test evaluation."""
    events = lives.events()
    state = replay(events)
    policy = compared_policies(state, state.finished or {"control": None, "final": None})[name]
    purpose = evaluation_purpose(policy, "test", GREEDY)
    shard = [one for one in events if one.get("purpose") == purpose and one.get("index") == 0]
    (rollout,) = {one["rollout"] for one in shard if one["type"] == "shard_accepted"}
    (grades,) = {one["grades"] for one in shard if one["type"] == "shard_graded"}
    return rollout, grades


def spoil(lives: Lives, path: str, how: Damage) -> None:
    lives.memory.lay(path, damaged(lives.memory.good[path], how, 77))
    lives.ever_damaged.add(path)


@pytest.mark.parametrize(("how", "rollout_too"), [("flip", False), ("remove", True)])
def test_grades_lost_after_their_evaluation_are_made_again_before_the_end(
    lives: Lives, how: Damage, rollout_too: bool
) -> None:

    def react(event: Event) -> None:
        if isinstance(event, IterationClosed) and not lives.ever_damaged:
            rollout, grades = graded(lives, "base")
            for path in (rollout, grades) if rollout_too else (grades,):
                spoil(lives, path, how)

    lives.watch.react = react
    state = lives.live()
    assert state is not None
    (lost,) = [event for event in lives.events() if event["type"] == "evaluation_lost"]
    assert lost["path"] in lives.ever_damaged
    assert any("is made again" in line for line in lives.watch.said)
    stays_whole(lives)
    assert "final - warmup" in summary(state, lives.program, lives.store)["comparisons"]
    assert audit(lives.store, RUN).problems == []
    lives.check_ledger()


@pytest.mark.parametrize(
    ("name", "how"),
    [("base", "cut"), ("warmup", "flip"), ("control", "empty"), ("final", "remove")],
)
def test_a_finished_run_makes_lost_grades_again_and_is_finished(
    lives: Lives, name: str, how: Damage
) -> None:
    before = lives.live()
    assert before is not None
    told = summary(before, lives.program, lives.store)
    events = lives.events()
    for path in graded(lives, name):
        spoil(lives, path, how)
    with pytest.raises(StoreError, match="the command that made this run makes it again"):
        summary(before, lives.program, lives.store)
    lives.live(lives.crash_at(120))  # killed on the way, it is no loss either
    state = lives.live()
    assert state is not None
    assert summary(state, lives.program, lives.store)["comparisons"] == told["comparisons"]
    stays_whole(lives)
    assert audit(lives.store, RUN).problems == []
    assert first_difference(events, lives.events()) is None
    assert lives.live() == state


def test_a_store_that_loses_an_evaluation_for_ever_stops_the_run(lives: Lives) -> None:

    def react(event: Event) -> None:
        if isinstance(event, Evaluated) and event.split == "test":
            spoil(lives, event.grades[0], "flip")

    lives.watch.react = react
    with pytest.raises(RunStopped, match=r"evaluate/.* was lost 6 times.*does not keep"):
        lives.drive()
