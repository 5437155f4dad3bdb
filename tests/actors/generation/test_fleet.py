"""A shard that kills engines: which of its queries does, and what becomes of the others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from actors.generation.fleet import EngineFleet
from actors.generation.generator import ShardWork
from actors.supervision.failures import Failure
from actors.supervision.pool import Result
from pipeline.driver.driver import drive
from pipeline.errors import RunStopped
from pipeline.generation.fleet import ShardDone, ShardFailed
from pipeline.generation.shards import ShardSpec
from pipeline.records import Rollout
from pipeline.run.spec import RunSpec
from pipeline.simulation.fleet import ScriptedFleet
from pipeline.simulation.mail import Mail
from pipeline.simulation.small_trees import put_small_tree
from pipeline.simulation.workers import scripted_workers
from pipeline.storage.models import policy_at
from pipeline.storage.parquet import from_parquet
from pipeline.storage.store import open_store
from tests.support.driving import Bench
from tests.support.scripted import make_config, make_program

ATTEMPTS = 3
Poisonous = Callable[[list[str]], bool]


class DeadlyPool:
    """Engines that die of the work that `poisonous` says so of, by its queries; the rest is done as
    the scripted fleet does it. `outage`: the store does not answer, which is nobody's fault."""

    def __init__(self, fleet: ScriptedFleet, poisonous: Poisonous) -> None:
        self.fleet = fleet
        self.poisonous = poisonous
        self.outage = False
        self.queue: list[ShardWork] = []
        self.submitted: list[str] = []

    def submit(self, work: ShardWork) -> None:
        self.submitted.append(work.key)
        self.queue.append(work)

    def poll(self, timeout_s: float = 0.0) -> list[Result]:
        queue, self.queue = self.queue, []
        return [self._result(work) for work in queue]

    def _result(self, work: ShardWork) -> Result:
        bad = {each.query for each in work.known_bad}
        failure = Failure("infrastructure", "the engine is gone")
        if self.outage:
            return Result(work.key, None, failure, ATTEMPTS, 1.0, "engine-0", 1)
        if self.poisonous([q.content_hash for q in work.queries_Q if q.content_hash not in bad]):
            return Result(work.key, None, failure, ATTEMPTS, 1.0, "engine-0", ATTEMPTS)
        done = ShardDone(work.spec.key, "alone", 1, 1, 1.0)
        if not work.alone:
            self.fleet.bad = bad
            made = self.fleet._generate(work.spec, work.policy)
            assert isinstance(made, ShardDone)
            done = replace(made, bad=work.known_bad)
        return Result(work.key, done, None, 1, 1.0, "engine-0")


class Setting:
    """A fleet over a deadly pool, and a shard of three queries for it."""

    def __init__(self, poisonous: Poisonous, queries: int = 3) -> None:
        self.store = open_store("memory://")
        self.program: RunSpec = make_program(make_config(generate={"shard_queries": queries}))
        fleet = scripted_workers(self.store, self.program).fleet
        content = {"skill": 0.5, "trained": "nothing"}
        self.policy = policy_at(put_small_tree(self.store, "policies", "model.json", content))
        self.pool = DeadlyPool(fleet, poisonous)
        self.fleet = EngineFleet(self.pool, self.program.by_hash)
        self.spec, self.other = self.program.evolve_specs(0, self.policy, 1.0)[:2]

    def answers(self, *specs: ShardSpec) -> dict[str, ShardDone | ShardFailed]:
        found: dict[str, ShardDone | ShardFailed] = {}
        for spec in specs:
            self.fleet.submit(spec, self.policy)
            self.fleet.submit(spec, self.policy)  # under way: nothing happens
        for _ in range(20):
            found |= {answer.key: answer for answer in self.fleet.poll()}
        assert not self.pool.queue
        return found


def of_shard(setting: Setting, place: int) -> str:
    return setting.spec.queries_Q[place]


def test_the_query_that_kills_engines_is_bad_and_the_rest_is_sampled() -> None:
    setting = Setting(lambda asked: False)
    poison = of_shard(setting, 1)
    setting.pool.poisonous = lambda asked: poison in asked
    answer = setting.answers(setting.spec)[setting.spec.key]
    assert isinstance(answer, ShardDone)
    assert [(one.query, one.reason) for one in answer.bad] == [(poison, "it killed 3 engines")]
    rows = from_parquet(setting.store.get(answer.rollout), Rollout)
    left = [query for query in setting.spec.queries_Q if query != poison]
    assert list(dict.fromkeys(row.query for row in rows)) == left
    assert answer.rollout.split("/")[2] == setting.spec.key
    alone = [f"{setting.spec.key}/{query[:16]}" for query in setting.spec.queries_Q]
    assert setting.pool.submitted == [setting.spec.key, *alone, setting.spec.key]
    # and again, as after a driver's death: the same object
    other = Setting(setting.pool.poisonous)
    assert other.answers(other.spec)[other.spec.key] == answer


def test_a_shard_of_one_query_is_looked_into_by_what_else_the_fleet_does() -> None:
    setting = Setting(lambda asked: False, queries=1)
    poison = of_shard(setting, 0)
    setting.pool.poisonous = lambda asked: poison in asked
    failed = setting.answers(setting.spec)[setting.spec.key]
    assert isinstance(failed, ShardFailed)
    assert "nothing else came to an end" in failed.reason
    found = setting.answers(setting.other, setting.spec)
    answer = found[setting.spec.key]
    assert isinstance(answer, ShardDone)
    assert ([one.query for one in answer.bad], answer.rows) == ([poison], 0)


@pytest.mark.parametrize(
    ("poisonous", "why"),
    [
        (bool, "nothing else came to an end"),
        (lambda asked: len(asked) > 1, "none of its queries does so alone"),
    ],
)
def test_what_is_no_querys_fault_fails_as_a_whole(poisonous: Poisonous, why: str) -> None:
    setting = Setting(poisonous)
    failed = setting.answers(setting.spec)[setting.spec.key]
    assert isinstance(failed, ShardFailed)
    assert (failed.kind, why in failed.reason) == ("infrastructure", True)
    assert "the engine is gone" in failed.reason
    assert setting.pool.submitted.count(setting.spec.key) == 1
    # it can be handed out again
    setting.pool.poisonous = lambda asked: False
    assert isinstance(setting.answers(setting.spec)[setting.spec.key], ShardDone)


def test_a_shard_that_kills_without_its_killers_too_fails() -> None:
    setting = Setting(lambda asked: False)
    poison = of_shard(setting, 0)
    setting.pool.poisonous = lambda asked: poison in asked or len(asked) == 2
    failed = setting.answers(setting.spec)[setting.spec.key]
    assert isinstance(failed, ShardFailed)
    assert "also without the queries" in failed.reason


def test_an_outage_blames_nobody() -> None:
    setting = Setting(lambda asked: False)
    setting.pool.outage = True
    failed = setting.answers(setting.spec)[setting.spec.key]
    assert failed == ShardFailed(setting.spec.key, "the engine is gone")
    assert setting.pool.submitted == [setting.spec.key]


@pytest.mark.parametrize("allowed", [0, 1])
def test_a_run_leaves_it_out_up_to_its_limit(tmp_path: Path, allowed: int) -> None:
    config = make_config(
        generate={"max_bad_queries": allowed}, evolve={"iterations": 1}, evaluate={"samples": 0}
    )
    bench = Bench(tmp_path, config)
    asked_for = bench.program.splits["validation"][0]
    poison, said = asked_for.content_hash, f"{asked_for.query_id}: it killed 3 engines"

    context = bench.context()
    inner = ScriptedFleet(context.store, bench.program.by_hash, Mail(bench.fleet.mail.random))
    fleet = EngineFleet(DeadlyPool(inner, lambda asked: poison in asked), bench.program.by_hash)
    object.__setattr__(context.workers, "fleet", fleet)
    if not allowed:
        with pytest.raises(RunStopped, match=said):
            drive(context)
        return
    state = drive(context)
    assert state.bad_queries == {poison: "it killed 3 engines"}
    assert f"left out: {said}" in bench.watch.said
