"""Several open steps advance together, commit in order, and lose nothing in a crash."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.driver.driver import drive
from pipeline.phases.order import ready_steps, to_open
from pipeline.phases.steps import Evaluate, Record, Step
from pipeline.refs import PolicyRef, ShardSet
from pipeline.run.events.lifecycle import Finished, PoolResized
from pipeline.run.ledger import Ledger
from pipeline.run.spec import RunSpec
from pipeline.run.state import State
from tests.support.driving import Bench, result
from tests.support.scripted import Crash
from tests.support.side_by_side import SIDE_BY_SIDE, Only


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    bench = Bench(tmp_path_factory.mktemp("beside"))
    bench.run(phases=SIDE_BY_SIDE)
    return bench


def stages_of_entries(bench: Bench) -> list[list[str]]:
    entries = Ledger(bench.store, bench.config.run.name).entries()
    return [[event["stage"] for event in entry.events] for entry in entries]


def test_steps_advance_together_and_the_run_ends_the_same(plain: Bench, beside: Bench) -> None:
    assert result(beside) == result(plain)
    together = {frozenset(stages) for stages in stages_of_entries(beside) if len(set(stages)) > 1}
    assert frozenset(("base/evaluate", "warmup/generate")) in together
    stages = [event["stage"] for event in beside.events]
    first, last = (stages[::turn].index("warmup/evaluate") for turn in (1, -1))
    between = set(stages[first : len(stages) - last])
    assert {"evolve/0/generate", "evolve/0/learn"} <= between, "beside sampling and training"
    assert all(len(set(stages)) == 1 for stages in stages_of_entries(plain))
    assert beside.clock.now < plain.clock.now


def test_each_step_commits_in_its_own_order(plain: Bench, beside: Bench) -> None:
    """Within one purpose or job events follow each other as if nothing else was under way."""

    def order(bench: Bench) -> dict[str, list[str]]:
        kinds: dict[str, list[str]] = {}
        for event in bench.events:
            name = event.get("purpose", event.get("job"))
            if name is not None and not event["type"].startswith("shard_"):
                kinds.setdefault(name, []).append(event["type"])
        return kinds

    assert order(beside) == order(plain)
    for purpose in {event["purpose"] for event in beside.of_type("shard_accepted")}:
        done: dict[int, list[str]] = {}
        for event in beside.events:
            if event.get("purpose") == purpose and "index" in event:
                done.setdefault(event["index"], []).append(event["type"])
        assert set(map(tuple, done.values())) == {("shard_accepted", "shard_graded")}


@pytest.mark.parametrize("part", range(10))
def test_a_crash_leaves_a_ledger_that_resumes(beside: Bench, bench: Bench, part: int) -> None:
    bench.backend.at = 5 + part * beside.backend.writes // 10
    bench.backend.after = bool(part % 2)
    with pytest.raises(Crash):
        bench.run(phases=SIDE_BY_SIDE)
    bench.run(seed=part, twice=0.3, phases=SIDE_BY_SIDE)
    assert result(bench) == result(beside)
    accepted = [(e["purpose"], e["index"]) for e in bench.of_type("shard_accepted")]
    assert len(accepted) == len(set(accepted))


# --- which steps are opened ----------------------------------------------------------------------


def step(name: str) -> Step:
    return Evaluate("stage", ShardSet(name), PolicyRef("policy-1", "policies/1"), "test", "greedy")


def test_what_is_ready_is_opened_beside_what_is_under_way() -> None:
    a, b, c = map(step, "abc")
    assert to_open([], [a, b]) == [a, b]
    assert to_open([a], [a, b, c]) == [b, c]
    assert to_open([a, b], [a, b]) == []


def test_nothing_is_opened_beside_a_step_that_is_no_longer_ready() -> None:
    a, b = step("a"), step("b")
    assert to_open([a], [b]) == ()


def test_a_run_is_in_its_first_phase_that_is_not_over(plain: Bench) -> None:
    done = Record("stage", Finished("warmup", None))

    def phase(steps: Sequence[Step]) -> Any:
        def ready(state: State, spec: RunSpec) -> Sequence[Step]:
            return steps

        return Only(ready)

    phases = [phase(()), phase([step("a"), step("b")]), phase([done])]
    assert ready_steps(State(), plain.program, phases) == [step("a"), step("b")]
    assert ready_steps(State(), plain.program, [phase(()), phase([done])]) == [done]
    state = State()
    Finished("warmup", None).fold(state)
    assert ready_steps(state, plain.program, phases) == ()


def test_a_pools_change_of_size_is_in_the_ledger_and_nothing_follows_from_it(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path)
    context = bench.context()
    changes = [PoolResized("engine", 0, 2, "work left: 4"), PoolResized("engine", 2, 0, "idle")]

    def resized() -> list[PoolResized]:
        return [changes.pop(0)] if changes else []

    context.workers = replace(context.workers, resized=resized)
    state = drive(context)
    assert state.finished is not None
    found = [(e["before"], e["after"], e["stage"]) for e in bench.of_type("pool_resized")]
    assert [sizes for *sizes, _ in found] == [[0, 2], [2, 0]]
    assert all(stage for *_, stage in found)
