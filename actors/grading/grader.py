"""The grading pool as the driver's grader."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from actors.grading.pool import GradePool, GradeResult, GradingFailed
from pipeline.grading.grade import GRADER_VERSION
from pipeline.query import Query
from pipeline.stages.grade import GradeDone, GradeTask, ObjectLost, Ungraded, finish_shard
from pipeline.storage.store import Store


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
