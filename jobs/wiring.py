"""From the driver's protocols to the actors, pools and groups that do the work.

Everything here translates and starts things; no decision is made. What can block (grading,
learning) runs on a thread of its own that holds no state of the run: the driver stays
single-threaded and hears of everything by polling.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

from actors.grading import GradePool, GradeResult, GradingFailed
from pipeline.grade import GRADER_VERSION
from pipeline.plan import ShardSpec
from pipeline.prompts import question_text, warmup_text
from pipeline.query import Query
from pipeline.roles import GradeDone, GradeTask, ObjectLost, PolicyRef
from pipeline.stages import Ungraded, finish_shard
from pipeline.store import Store


class PoolLike(Protocol):
    """What fleet and scorer use of `actors.pool.Pool`."""

    def submit(self, spec: dict[str, Any]) -> None: ...
    def poll(self, timeout_s: float = 0.0) -> list[Any]: ...


def asked_of(spec: ShardSpec, query: Query) -> str:
    """What a shard asks about one of its queries, as rendered text."""
    return question_text(query) if spec.prompt == "question" else warmup_text(query, spec.template)


def generate_spec(
    spec: ShardSpec, policy: PolicyRef, queries: Mapping[str, Query]
) -> dict[str, Any]:
    """A shard as it is sent to a generator (`actors.generator.GenerateSpec`)."""
    groups = []
    for item in spec.queries_Q:
        query = queries[item]
        groups += [
            {
                "query": item,
                "query_id": query.query_id,
                "text": asked_of(spec, query),
                "images": list(query.images),
                "seeds": list(part.seeds),
                "first_index": part.first_index,
                "prefix_token_ids": list(part.prefix),
            }
            for part in spec.parts(item)
        ]
    return {
        "id": spec.key,
        "key": spec.key,
        "policy": policy.version,
        "policy_path": policy.path,
        "temperature": spec.sampling.temperature,
        "top_p": spec.sampling.top_p,
        "max_new_tokens": spec.sampling.max_new_tokens,
        "groups": groups,
    }


class PoolGrader:
    """The grading pool as the driver's grader: one shard after the other, beside the driver."""

    def __init__(self, store: Store, pool: GradePool) -> None:
        self._store = store
        self._pool = pool
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="grade")
        self._under_way: dict[str, Future[GradeDone | ObjectLost]] = {}

    def submit(self, task: GradeTask) -> None:
        if task.key not in self._under_way:
            self._under_way[task.key] = self._thread.submit(
                finish_shard, self._store, task, self._grade_many, GRADER_VERSION
            )

    def _grade_many(self, items: list[tuple[str, Query]]) -> list[GradeResult | Ungraded]:
        try:
            return list(self._pool.grade_many(items))
        except GradingFailed as failed:
            reasons = dict(failed.failures)
            return [
                Ungraded(reasons[place]) if result is None else result
                for place, result in enumerate(failed.results)
            ]

    def poll(self) -> Sequence[GradeDone | ObjectLost]:
        """What has ended; an error of the grading itself is raised here."""
        ended = [key for key, work in self._under_way.items() if work.done()]
        return [self._under_way.pop(key).result() for key in ended]

    def close(self) -> None:
        """Stop after the shard that is being graded."""
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._pool.close()
