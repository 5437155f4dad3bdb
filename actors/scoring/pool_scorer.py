"""The pool of process reward models as the driver's scorer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from actors.generation.engine_settings import engine_settings
from actors.generation.fleet import pool_settings
from actors.scoring.scorer import ScorerActor
from actors.supervision.node_cache import cache_place
from actors.supervision.pool import Pool, PoolLike, Result
from pipeline.config.schema import Config
from pipeline.run.shard_answers import ScoreDone
from pipeline.stages.score import ScoreFailed, ScoreTask
from pipeline.storage.store import Store


def scorer_pool(config: Config, store: Store, say: Callable[[str], None]) -> Pool:
    """The pool of process reward models; nothing starts before there is work."""
    engine = engine_settings(config)
    return Pool(
        ScorerActor,
        [config, engine, engine.identity(), store, cache_place(config)],
        pool_settings(
            config,
            most=config.prm.scorers,
            least=config.cluster.min_scorers,
            # One is scored, one is read: see actors/scoring/scorer.py.
            inflight=2,
        ),
        name="scorer",
        say=say,
    )


class PoolScorer:
    """The pool as the driver's scorer: tasks go to it as they are, and so do its answers."""

    def __init__(self, pool: PoolLike) -> None:
        self._pool = pool

    def submit(self, task: ScoreTask) -> None:
        self._pool.submit(task)

    def poll(self) -> Sequence[ScoreDone | ScoreFailed]:
        return [_answer(result) for result in self._pool.poll()]


def _answer(result: Result) -> ScoreDone | ScoreFailed:
    failure = result.failure
    if failure is None:
        done: ScoreDone = result.value
        return done
    return ScoreFailed(result.key, failure.reason, failure.kind, failure.path)
