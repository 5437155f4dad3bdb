"""Between the driver's protocols and the pools: what is sent, what comes back, what is raised."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest

from actors.generation.fleet import EngineFleet
from actors.generation.generator import ShardWork, asked_of
from actors.grading.grader import PoolGrader
from actors.grading.pool import GradingFailed
from actors.supervision.failures import Failure
from actors.supervision.pool import Result
from pipeline.errors import BadData
from pipeline.generation.fleet import BadQuery, ShardDone, ShardFailed
from pipeline.query import Query
from pipeline.records import Grade
from pipeline.refs import PolicyRef
from pipeline.run.spec import RunSpec
from pipeline.selection.rules import Rule
from pipeline.stages.grade import GradeDone, GradeTask
from pipeline.storage.artifacts import read_rows
from pipeline.storage.models import policy_at
from pipeline.storage.store import Store, open_store
from tests.support.scripted import make_config, make_program
from tests.support.scripted_world import (
    Grading,
    ScriptedFleet,
    grade_many,
    make_world,
    put_small_tree,
)


class FakePool:
    def __init__(self) -> None:
        self.works: list[ShardWork] = []
        self.answers: list[Result] = []

    def submit(self, work: ShardWork) -> None:
        self.works.append(work)

    def poll(self, timeout_s: float = 0.0) -> list[Result]:
        answers, self.answers = self.answers, []
        return answers


class FakeGradePool:
    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error
        self.closed = False

    def grade_many(self, items: list[tuple[str, Query]]) -> list[Grading]:
        if self.error is not None:
            raise self.error
        return list(grade_many(items))

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def program() -> RunSpec:
    return make_program(make_config())


def test_a_shard_is_sent_as_it_is_with_its_queries(program: RunSpec) -> None:
    pool = FakePool()
    fleet = EngineFleet(pool, program.by_hash)
    policy = PolicyRef("policy-1", "policies/model/1")
    spec = program.warmup_specs(policy)[0]
    fleet.submit(spec, policy)
    (work,) = pool.works
    assert (work.key, work.stored_as, work.spec, work.policy) == (spec.key, spec.key, spec, policy)
    assert tuple(query.content_hash for query in work.queries_Q) == spec.queries_Q
    for query in work.queries_Q:
        assert f"The answer is {query.answer}." in asked_of(spec, query)
    question = program.evolve_specs(0, policy)[0]
    assert "The answer is" not in asked_of(question, work.queries_Q[0])


def test_answers_and_failures_keep_their_meaning(program: RunSpec) -> None:
    pool = FakePool()
    fleet = EngineFleet(pool, program.by_hash)
    done = ShardDone("k", "shards/rollout/k/x", 3, 30, 1.5, bad=(BadQuery("q", "too long"),))
    pool.answers = [
        Result("k", done, None, 1, 1.5, "engine-1"),
        Result("l", None, Failure("lost", "hash", "images/1"), 1, 1.5, "engine-1"),
    ]
    assert fleet.poll() == [
        replace(done, engine="engine-1"),
        ShardFailed("l", "hash", "lost", "images/1"),
    ]


def graded_task(program: RunSpec, store: Store) -> GradeTask:
    """A rollout shard of a scripted fleet, to be graded."""
    world, fleet, _ = make_world(store, program)
    assert isinstance(world.fleet, ScriptedFleet)
    content = {"skill": 0.5, "trained": "nothing"}
    policy = policy_at(put_small_tree(store, "policies", "model.json", content))
    spec = program.evolve_specs(0, policy)[0]
    fleet.submit(spec, policy)
    (done,) = fleet.mail.waiting
    queries = tuple(program.by_hash[item] for item in spec.queries_Q)
    return GradeTask(spec.key, done.rollout, queries, 3, "question", Rule(), 0)


def wait_for(grader: PoolGrader) -> Any:
    for _ in range(6000):
        found = grader.poll()
        if found:
            return found[0]
        time.sleep(0.01)
    raise AssertionError("nothing was graded")


def test_grading_runs_beside_the_driver(program: RunSpec) -> None:
    store = open_store("memory://")
    task = graded_task(program, store)
    pool = FakeGradePool()
    grader = PoolGrader(store, pool, print)  # type: ignore[arg-type]
    grader.submit(task)
    grader.submit(task)
    answer = wait_for(grader)
    assert isinstance(answer, GradeDone)
    assert store.exists(answer.grades)
    assert answer.selected is not None
    assert store.exists(answer.selected)
    assert grader.poll() == []
    grader.close()
    assert pool.closed


def test_answers_that_cannot_be_graded_name_their_query_and_cost_no_other(
    program: RunSpec,
) -> None:
    store = open_store("memory://")
    task = graded_task(program, store)

    class Refusing(FakeGradePool):
        def grade_many(self, items: list[tuple[str, Query]]) -> list[Grading]:
            results: list[Any] = [None, *grade_many(items)[1:]]
            raise GradingFailed([(0, "the gold answer is no number")], results)

    grader = PoolGrader(store, Refusing(), print)  # type: ignore[arg-type]
    grader.submit(task)
    answer = wait_for(grader)
    (bad,) = answer.bad
    assert bad.reason == "the gold answer is no number"
    graded = read_rows(store, answer.grades, Grade)
    assert {row.query for row in graded} == {q.content_hash for q in task.queries_Q} - {bad.query}
    assert answer.coverage.queries == len(task.queries_Q) - 1
    grader.close()


def test_a_grader_that_raises_is_heard_of_where_the_driver_polls(program: RunSpec) -> None:
    store = open_store("memory://")
    task = graded_task(program, store)
    grader = PoolGrader(store, FakeGradePool(BadData("the gold answer is no number")), print)  # type: ignore[arg-type]
    grader.submit(task)
    with pytest.raises(BadData, match="no number"):
        wait_for(grader)
    grader.close()


def test_a_rollout_that_is_not_whole_is_lost_and_not_graded(program: RunSpec) -> None:
    store = open_store("memory://")
    task = graded_task(program, store)
    grader = PoolGrader(store, FakeGradePool(), print)  # type: ignore[arg-type]
    grader.submit(GradeTask(**{**task.__dict__, "samples": 4}))
    assert "2 samples are missing" in wait_for(grader).reason
    other = {**task.__dict__, "key": "other", "rollout": f"shards/rollout/{'0' * 64}.parquet"}
    grader.submit(GradeTask(**other))
    assert wait_for(grader).path == other["rollout"]
    grader.close()
