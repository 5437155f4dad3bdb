"""From the driver's scorer to the pool of process reward models.

Which rows need a score is decided here from graded shards in the store, and selection by the scores
is made here when they are there; actors only score. Everything is done where the driver polls: a
shard's parquet files are small beside what scoring them takes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from actors.generation.engine_settings import engine_settings
from actors.model.prm_folder import TagWords
from actors.model.processor import load_processor
from actors.scoring.scorer import ScorerActor, ScorerSettings
from actors.supervision.node_cache import node_folder
from actors.supervision.pool import Pool, PoolLike, PoolSettings
from pipeline.config.schema import Config
from pipeline.errors import CorruptObject, StoreMissing
from pipeline.generation.shards import EngineIdentity
from pipeline.prompts import question_text
from pipeline.query import Query
from pipeline.records import Score
from pipeline.refs import PolicyRef
from pipeline.stages.grade import graded_rows
from pipeline.stages.score import (
    ScoreDone,
    ScoreFailed,
    ScoreTask,
    finish_scored,
    rows_to_score,
    score_key,
)
from pipeline.storage.artifacts import SCORES, Lost, put_content
from pipeline.storage.parquet import to_parquet
from pipeline.storage.store import Store


def tag_words(config: Config) -> TagWords | None:
    """How the configured PRM is read, where it answers at a step tag."""
    prm = config.prm
    return TagWords(prm.tag, prm.good, prm.bad) if prm.kind == "tag" else None


def scorer_pool(config: Config, store: Store, cache: str, say: Callable[[str], None]) -> Pool:
    """The pool of process reward models; nothing starts before it is first polled."""
    engine = engine_settings(config)
    settings = ScorerSettings(
        engine=engine,
        store_url=store.url,
        cache=node_folder(config, Path(cache), "prms"),
        backend=config.prm.engine,
        tag=tag_words(config),
        max_image_pixels=config.data.max_image_pixels,
    )
    cluster, generate = config.cluster, config.generate
    return Pool(
        ScorerActor,
        [settings],
        PoolSettings(
            size=config.prm.scorers,
            cpus=cluster.cpus_per_engine,
            gpus=cluster.gpus_per_engine * generate.tensor_parallel_size,
            # One is scored, one is read: see actors/scoring/scorer.py.
            inflight=2,
            hang_s=generate.hang_s,
            attempts=generate.attempts,
            environment=engine.environment(),
        ),
        name="scorer",
        say=say,
    )


class PoolScorer:
    """The pool as the driver's scorer."""

    def __init__(self, store: Store, pool: PoolLike, engine: EngineIdentity, kind: str) -> None:
        self._store = store
        self._pool = pool
        self._engine = engine
        self._kind = kind
        self._tasks: dict[str, ScoreTask] = {}
        self._ready: list[ScoreDone | ScoreFailed] = []

    def submit(self, task: ScoreTask) -> None:
        if task.key in self._tasks:
            return
        try:
            rows, grades = graded_rows(self._store, task.rollout, task.grades)
        except Lost as lost:
            self._ready.append(ScoreFailed(task.key, lost.reason, "lost", lost.path))
            return
        places = [(row.query, row.sample_index) for row in rows_to_score(rows, grades, task)]
        key = score_key(task, places, self._engine, self._kind)
        if not places:
            path = put_content(self._store, SCORES, key, to_parquet([], Score), "parquet")
            self._ready.append(self._finish(task, path, {}, 0.0))
            return
        self._tasks[task.key] = task
        queries = {query.content_hash: query for query in task.queries_Q}
        self._pool.submit(
            {
                "id": task.key,
                "key": key,
                "prm": task.scoring.prm.version,
                "prm_path": task.scoring.prm.path,
                "rollout": task.rollout,
                "queries": {name: asked(queries[name]) for name, _ in places},
                "rows": places,
                "aggregate": task.scoring.aggregate,
            }
        )

    def poll(self) -> Sequence[ScoreDone | ScoreFailed]:
        found, self._ready = self._ready, []
        return found + [self._answer(result) for result in self._pool.poll()]

    def _answer(self, result: Any) -> ScoreDone | ScoreFailed:
        task = self._tasks.pop(result.spec_id)
        if result.failure is not None:
            failure = result.failure
            return ScoreFailed(task.key, failure.reason, failure.kind, failure.path)
        value = result.value
        return self._finish(task, value["scores"], value["excluded"], value["seconds"])

    def _finish(
        self, task: ScoreTask, scores: str, excluded: Mapping[str, int], seconds: float
    ) -> ScoreDone | ScoreFailed:
        try:
            return finish_scored(self._store, task, scores, excluded, seconds)
        except Lost as lost:
            return ScoreFailed(task.key, lost.reason, "lost", lost.path)


class PolicyDecoders:
    """Tokens to text as a policy's own processor does it; the folder of the last one is kept."""

    def __init__(self, store: Store, folder: Path) -> None:
        self._store = store
        self._folder = folder

    def __call__(self, policy: PolicyRef) -> Callable[[Sequence[int]], str]:
        folder = self._folder / policy.path.rsplit("/", 1)[-1]
        try:
            self._store.get_tree(policy.path, folder)
        except (CorruptObject, StoreMissing) as error:
            raise Lost(policy.path, str(error)) from error
        return load_processor(folder).decode


def asked(query: Query) -> dict[str, Any]:
    """A query as scorers are told of it."""
    return {"text": question_text(query), "images": list(query.images)}
