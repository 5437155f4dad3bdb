"""The grading pool as the driver's grader."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from actors.grading.pool import GradePool, GradeResult, GradingFailed
from pipeline.grading.grade import GRADER_VERSION
from pipeline.query import Query
from pipeline.stages.grade import GradeDone, GradeTask, ObjectLost, Ungraded, finish_shard
from pipeline.storage.store import Store


class PoolGrader:
    """The grading pool as the driver's grader: one shard after the other, beside the driver.

    say: where an answer is named that could not be compared, in the thread that polls.
    """

    def __init__(self, store: Store, pool: GradePool, say: Callable[[str], None]) -> None:
        self._store = store
        self._pool = pool
        self._say = say
        self._not_compared = 0
        self._to_say: deque[str] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="grade")
        self._under_way: dict[str, Future[GradeDone | ObjectLost]] = {}

    def submit(self, task: GradeTask) -> None:
        if task.key not in self._under_way:
            self._under_way[task.key] = self._thread.submit(
                finish_shard, self._store, task, self._grade_many, GRADER_VERSION
            )

    def _grade_many(self, items: list[tuple[str, Query]]) -> list[GradeResult | Ungraded]:
        try:
            results: Sequence[GradeResult | None] = self._pool.grade_many(items)
            reasons: dict[int, str] = {}
        except GradingFailed as failed:
            results, reasons = failed.results, dict(failed.failures)
        for (_, query), result in zip(items, results, strict=True):
            if result is not None and result.reason is not None:
                self._to_say.append(f"{query.query_id}: {result.reason}")
        return [
            Ungraded(reasons[place]) if result is None else result
            for place, result in enumerate(results)
        ]

    def poll(self) -> Sequence[GradeDone | ObjectLost]:
        """What has ended; an error of the grading itself is raised here."""
        while self._to_say:
            self._not_compared += 1
            reason = self._to_say.popleft()
            self._say(
                f"unparsed, comparison {self._not_compared} of this run that failed: {reason}"
            )
        ended = [key for key, work in self._under_way.items() if work.done()]
        return [self._under_way.pop(key).result() for key in ended]

    def close(self) -> None:
        """Stop after the shard that is being graded."""
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._pool.close()
