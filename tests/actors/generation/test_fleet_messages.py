"""Between the driver's fleet and the pool of engines: what is sent, what comes back."""

from __future__ import annotations

from dataclasses import replace

import pytest

from actors.generation.fleet import EngineFleet
from actors.generation.generator import ShardWork
from actors.supervision.failures import Failure
from actors.supervision.pool import Result
from pipeline.generation.fleet import BadQuery, ShardDone, ShardFailed
from pipeline.refs import PolicyRef
from pipeline.run.spec import RunSpec
from tests.support.scripted import make_config, make_program


class FakePool:
    def __init__(self) -> None:
        self.works: list[ShardWork] = []
        self.answers: list[Result] = []

    def submit(self, work: ShardWork) -> None:
        self.works.append(work)

    def poll(self, timeout_s: float = 0.0) -> list[Result]:
        answers, self.answers = self.answers, []
        return answers


@pytest.fixture
def program() -> RunSpec:
    return make_program(make_config())


def test_a_shard_is_sent_as_it_is_with_its_queries(program: RunSpec) -> None:
    pool = FakePool()
    fleet = EngineFleet(pool, program.by_hash)
    policy = PolicyRef("policy-1", "policies/model/1")
    spec = program.chain_specs("warmup", program.warmup_queries, policy)[0]
    fleet.submit(spec, policy)
    (work,) = pool.works
    assert (work.key, work.stored_as, work.spec, work.policy) == (spec.key, spec.key, spec, policy)
    assert tuple(query.content_hash for query in work.queries_Q) == spec.queries_Q
    for query in work.queries_Q:
        assert f"The answer is {query.answer}." in spec.templates.text(query, spec.prompt)
    question = program.evolve_specs(0, policy, 1.0)[0]
    assert "The answer is" not in question.templates.text(work.queries_Q[0])


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
