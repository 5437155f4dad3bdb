"""The driver when things go wrong: killed at its writes, objects lost, roles that die, bad data."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import RunStopped
from pipeline.generation.fleet import ShardDone, ShardFailed
from pipeline.generation.shards import ShardSpec
from pipeline.records import Grade, Selected
from pipeline.refs import PolicyRef
from pipeline.run.events.event import Event
from pipeline.run.events.sampling import ShardAccepted
from pipeline.run.events.wire import replay
from pipeline.run.state import State
from pipeline.simulation.fleet import ScriptedFleet
from pipeline.simulation.workers import in_process
from pipeline.stages.tasks import TaskContext
from pipeline.storage.artifacts import read_rows
from tests.support.driving import Bench, result
from tests.support.scripted import Crash, make_config


def run_through(bench: Bench, crashes: Sequence[tuple[int, bool]], seed: int) -> None:
    """A run that dies at each of these writes (counted from the restart before) and goes on."""
    for number, (at, after) in enumerate([*crashes, (-1, False)]):
        bench.backend.writes, bench.backend.at, bench.backend.after = 0, at, after
        try:
            bench.run(seed=seed + number, twice=0.2)
        except Crash:
            continue
        return


@given(
    st.lists(st.tuples(st.integers(1, 250), st.booleans()), min_size=1, max_size=8),
    st.integers(0, 100),
)
@settings(max_examples=12)
def test_killed_at_any_write_ends_the_same(
    plain: Bench,
    tmp_path_factory: pytest.TempPathFactory,
    crashes: list[tuple[int, bool]],
    seed: int,
) -> None:
    bench = Bench(tmp_path_factory.mktemp("crash"))
    run_through(bench, crashes, seed)
    assert result(bench) == result(plain)
    accepted = [(e["purpose"], e["index"]) for e in bench.of_type("shard_accepted")]
    assert len(accepted) == len(set(accepted))


def test_killed_once_at_writes_from_the_first_to_the_last(plain: Bench, tmp_path: Path) -> None:
    """At every 23rd, since every single one would take minutes; others are drawn above."""
    for at in range(1, plain.backend.writes, 23):
        bench = Bench(tmp_path)
        run_through(bench, [(at, at % 2 == 0)], seed=at)
        assert result(bench) == result(plain), at


def test_no_accepted_shard_is_generated_again_after_a_kill(bench: Bench) -> None:
    for at in (40, 40, 40, 40, -1):
        bench.backend.writes, bench.backend.at = 0, at
        accepted = {e["key"] for e in bench.of_type("shard_accepted")}
        # What lies in the store without an event is adopted, not made a second time.
        stored = {path.split("/")[2] for path in bench.store.list("shards/rollout/")}
        assert accepted <= stored
        with suppress(Crash):
            bench.run(seed=at)
        assert not stored & set(bench.fleet.generated)
    adopted = [e for e in bench.of_type("shard_accepted") if e["adopted"]]
    assert any(event["purpose"] != "control" for event in adopted)


def corrupt(bench: Bench, part: str, when: str) -> None:
    """Flip bytes of every object of a stage, once, as soon as the event `when` is seen."""
    done = False
    original = bench.watch.event

    def event(event: Event, state: State) -> None:
        nonlocal done
        original(event, state)
        purpose = str(getattr(event, "purpose", ""))
        if not done and event.type == when and purpose.startswith("evolve/1"):
            done = True
            for path in list(bench.backend._objects):
                if path.startswith(f"shards/{part}/"):
                    bench.backend._objects[path] = (b"flipped", 0.0)

    bench.watch.event = event  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("part", "when"),
    [
        ("rollout", "shard_accepted"),
        ("select", "sampling_closed"),
        ("grade", "sampling_closed"),
    ],
)
def test_a_corrupt_object_is_made_again_and_never_trained_on(
    plain: Bench, bench: Bench, part: str, when: str
) -> None:
    corrupt(bench, part, when)
    bench.run()
    if part != "grade":
        assert bench.of_type("object_lost")
    state, expected = replay(bench.events), replay(plain.events)
    assert state.policies == expected.policies
    assert state.evaluations == expected.evaluations


def test_a_store_that_keeps_nothing_stops_the_run(bench: Bench) -> None:
    original = bench.watch.event

    def event(event: Event, state: State) -> None:
        original(event, state)
        if isinstance(event, ShardAccepted) and event.purpose == "evolve/0":
            bench.backend._objects[event.rollout] = (b"flipped", 0.0)

    bench.watch.event = event  # type: ignore[method-assign]
    with pytest.raises(RunStopped, match="does not keep what it is given"):
        bench.drive()


def test_a_dying_learner_is_started_again_from_its_last_checkpoint(
    plain: Bench, bench: Bench
) -> None:
    bench.learner.fail = 3
    bench.drive()
    assert result(bench) == result(plain)
    assert sum("the learner died" in line for line in bench.watch.said) == 3
    resumed = [cursor for _, cursor in bench.learner.submitted]
    assert any(cursor > 0 for cursor in resumed) or len(resumed) > 7


def test_a_learner_that_always_dies_stops_the_run(tmp_path: Path) -> None:
    bench = Bench(tmp_path, make_config(learn={"attempts": 4}))
    bench.learner.fail = 10**6
    with pytest.raises(RunStopped, match=r"died 4 times .*learn.attempts = 4.*rank 1 died"):
        bench.drive()
    assert bench.clock.now >= 1 + 2 + 4


def test_the_guard_stops_the_run(bench: Bench) -> None:
    bench.learner.guard = "log-probabilities deviate by 0.3 nats"
    with pytest.raises(RunStopped, match="deviate by 0"):
        bench.drive()
    assert not any(event["job"].startswith("evolve") for event in bench.of_type("job_done"))


def test_a_fleet_that_gives_up_stops_the_run(bench: Bench) -> None:
    bench.fleet.fail = {1}
    with pytest.raises(RunStopped, match="every engine died"):
        bench.drive()


def test_what_somebody_has_a_copy_of_is_put_back(plain: Bench, bench: Bench) -> None:
    bench.fleet.lost = "images/abc"

    def repair(path: str) -> bool:
        bench.fleet.lost = ""
        return path == "images/abc"

    bench.current.workers = replace(bench.current.workers, repair=repair)
    bench.drive()
    assert result(bench) == result(plain)
    assert any("has been put back" in line for line in bench.watch.said)


class Repeating:
    """Engines whose first shard fails, and fails again by hearsay when it has been generated; its
    answer comes when it is found in the store."""

    def __init__(self, fleet: ScriptedFleet) -> None:
        self.fleet = fleet
        self.failed: ShardFailed | None = None
        self.told = 0

    def submit(self, spec: ShardSpec, policy: PolicyRef) -> None:
        if self.failed is None:
            self.failed = ShardFailed(spec.key, "it is corrupt", "lost", "images/abc")
        else:
            self.fleet.submit(spec, policy)

    def poll(self) -> list[ShardDone | ShardFailed]:
        assert self.failed is not None
        if self.told == 0 or (self.told == 1 and self.failed.key in self.fleet.generated):
            self.told += 1
            return [self.failed]
        answers = self.fleet.poll()
        while self.told == 2 and self.failed.key not in [answer.key for answer in answers]:
            answers += self.fleet.poll()
        self.told += self.told == 2
        return answers


def test_a_shard_that_is_found_as_its_answer_comes_is_accepted_once(
    plain: Bench, bench: Bench
) -> None:
    """A failure that is told twice has its work forgotten: the next look finds what it stored."""
    fleet = Repeating(bench.fleet)
    stage = in_process(TaskContext(bench.store, bench.program))
    workers = replace(bench.current.workers, fleet=fleet, stage=stage, repair=lambda path: True)
    bench.current.workers = workers
    bench.drive()
    assert fleet.told == 3
    accepted = [(e["purpose"], e["index"]) for e in bench.of_type("shard_accepted")]
    assert len(accepted) == len(set(accepted))
    # (The control finds the warm-up's chains, on purpose.)
    taken = [e["purpose"] for e in bench.of_type("shard_accepted") if e["adopted"]]
    assert len([purpose for purpose in taken if purpose != "control"]) == 1
    assert result(bench) == result(plain)


def test_what_nobody_has_a_copy_of_stops_the_run(bench: Bench) -> None:
    bench.fleet.lost = "policies/model/abc"
    with pytest.raises(RunStopped, match="it is corrupt"):
        bench.drive()


def test_bad_queries_are_skipped_up_to_a_limit(tmp_path: Path) -> None:
    config = make_config(generate={"max_bad_queries": 1})
    bench = Bench(tmp_path / "one", config)
    first = bench.program.pool[0]
    bench.fleet.bad = {first}
    state = bench.drive()
    assert state.bad_queries == {first: "prompt too long"}
    assert all(first not in line for lines in bench.learner.trained_rows.values() for line in lines)
    bench = Bench(tmp_path / "two", config)
    bench.fleet.bad = set(bench.program.pool[:2])
    with pytest.raises(RunStopped, match="max_bad_queries = 1") as caught:
        bench.drive()
    assert "train-" in str(caught.value)


def test_queries_that_cannot_be_graded_are_skipped_up_to_a_limit(tmp_path: Path) -> None:
    config = make_config(generate={"max_bad_queries": 1})
    bench = Bench(tmp_path / "one", config)
    refused = bench.program.pool[0]
    bench.grader.refused = {refused}
    state = bench.drive()
    assert state.bad_queries == {refused: "no number"}
    assert sum("left out: train-" in line for line in bench.watch.said) == 1
    for event in bench.of_type("shard_graded"):
        for path, kind in ((event["grades"], Grade), (event["selected"], Selected)):
            rows = read_rows(bench.store, path, kind) if path else []
            assert all(row.query != refused for row in rows)
    bench = Bench(tmp_path / "two", config)
    bench.grader.refused = set(bench.program.pool[:2])
    with pytest.raises(RunStopped, match="max_bad_queries = 1"):
        bench.drive()


def test_lost_grades_of_a_shard_with_a_refused_query_are_made_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path, make_config(generate={"max_bad_queries": 1}))
    corrupt(bench, "select", "sampling_closed")
    bench.grader.refused = set(bench.program.pool[:1])
    bench.drive()
    assert {event["path"].split("/")[1] for event in bench.of_type("object_lost")} == {"select"}


def test_a_bad_test_query_lowers_n_and_is_not_a_wrong_answer(tmp_path: Path) -> None:
    bench = Bench(tmp_path, make_config(generate={"max_bad_queries": 1}))
    bench.fleet.bad = {bench.program.splits["test"][0].content_hash}
    bench.drive()
    assert {e["result"]["n"] for e in bench.of_type("evaluated") if e["split"] == "test"} == {4}
