"""Between the driver's scorer and the pool: what is sent, what comes back."""

from __future__ import annotations

import pytest

from actors.generation.engine_settings import engine_settings
from actors.scoring.pool_scorer import PoolScorer, scorer_pool
from actors.supervision.failures import Failure
from actors.supervision.pool import Result
from pipeline.refs import PolicyRef
from pipeline.run.shard_answers import ScoreDone
from pipeline.stages.score import ScoreFailed, ScoreTask, Scoring, scored_how
from pipeline.storage.store import open_store
from tests.support.scripted import make_config

TASK = ScoreTask(
    "shard-1", "r", "g", (), "question", Scoring(PolicyRef("p", "policies/p"), "right", "min"),
    None, 0,
)  # fmt: skip


class FakePool:
    """Answers everything with the same value or failure."""

    def __init__(self, value: ScoreDone | None, failure: Failure | None = None) -> None:
        self.value, self.failure = value, failure
        self.tasks: list[ScoreTask] = []

    def submit(self, task: ScoreTask) -> None:
        self.tasks.append(task)

    def poll(self, timeout_s: float = 0.0) -> list[Result]:
        tasks, self.tasks = self.tasks, []
        return [Result(task.key, self.value, self.failure, 1, 1.0, "scorer-0") for task in tasks]


def test_a_task_is_sent_as_it_is_and_so_are_answers_and_failures() -> None:
    done = ScoreDone("shard-1", "r", "s", None, None, {"too_long": 1}, {}, 1.0)
    pool = FakePool(done)
    scorer = PoolScorer(pool)
    scorer.submit(TASK)
    assert pool.tasks == [TASK]
    assert scorer.poll() == [done]
    assert scorer.poll() == []
    failing = PoolScorer(FakePool(None, Failure("lost", "it is gone", "images/1")))
    failing.submit(TASK)
    assert failing.poll() == [ScoreFailed("shard-1", "it is gone", "lost", "images/1")]


@pytest.mark.parametrize("engine", ["vllm", "transformers"])
def test_actors_get_the_configuration_as_it_is(engine: str) -> None:
    config = make_config(
        select={"reward": "prm"}, prm={"engine": engine}, cluster={"node_cache": "/nvme"}
    )
    store = open_store("memory://")
    sent, settings, identity, reached, cache = scorer_pool(config, store, print).actors.args
    assert (sent, settings, reached) == (config, engine_settings(config), store)
    assert identity == settings.identity()
    assert cache == "/nvme"
    assert scored_how(config) == ("head" if engine == "vllm" else "head by transformers")
