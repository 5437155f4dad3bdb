"""Grading and stage tasks in a process beside the driver, which itself reads and writes no shard.

    driver ── GradeTask, StageTask ──► StageActor ──► grading processes
           ◄── GradeDone, TaskDone, TaskLost ──┘

What always holds: the actor lives on the driver's own node and ends with the driver; one that dies
is replaced and what it was at is done again, which changes nothing (`pipeline.stages.tasks`). Its
work reads and writes the store, and on disk only this node's cache of trees.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from actors.grading.pool import GradePool, GradeResult, GradingFailed
from actors.stages.decoders import PolicyDecoders
from actors.supervision.failures import CallResult
from actors.supervision.node_cache import cache_place, take_code_folder, tree_cache
from actors.supervision.pool import Pool, PoolLike, PoolSettings, Result
from actors.supervision.pool_actor import PoolActor
from actors.supervision.store_access import reach_store
from pipeline.config.schema import Config
from pipeline.errors import RunStopped
from pipeline.query import Query
from pipeline.run.shard_answers import GradeDone
from pipeline.run.spec import RunSpec
from pipeline.stages.grade import GradeTask, TaskLost, Ungraded, finish_shard
from pipeline.stages.tasks import StageTask, TaskContext, TaskDone, perform
from pipeline.storage.store import Store

# Tasks under way at a time: grading waits for its processes while another one reads.
INFLIGHT = 4


@dataclass(frozen=True)
class StageWork:
    """A task as it is sent; grading a shard and adopting it have one key."""

    task: GradeTask | StageTask

    @property
    def key(self) -> str:
        """Names this piece of work."""
        return f"{type(self.task).__name__} {self.task.key}"


@dataclass(frozen=True)
class ShardGraded:
    """What grading a shard gave. not_compared: answers that could not be compared, and why."""

    answer: GradeDone | TaskLost
    not_compared: tuple[str, ...] = ()


class GradeMany(Protocol):
    """What is used of a `GradePool`."""

    def grade_many(self, items: Sequence[tuple[str, Query]]) -> Sequence[GradeResult]: ...


class Stages:
    """Does tasks, in whichever process; safe to call from several threads at once."""

    def __init__(self, context: TaskContext, graders: GradeMany) -> None:
        self._context = context
        self._graders = graders

    def run(self, work: StageWork) -> ShardGraded | TaskDone | TaskLost:
        """Do a task.

        Raises:
            UserError: what a person has to mend; StoreError: the store does not answer, or refuses.
        """
        task = work.task
        return self._grade(task) if isinstance(task, GradeTask) else perform(task, self._context)

    def _grade(self, task: GradeTask) -> ShardGraded:
        not_compared: list[str] = []

        def grade_many(items: list[tuple[str, Query]]) -> list[GradeResult | Ungraded]:
            results, reasons = self._results(items)
            for (_, query), result in zip(items, results, strict=True):
                if result is not None and result.reason is not None:
                    not_compared.append(f"{query.query_id}: {result.reason}")
            return [
                Ungraded(reasons[place]) if result is None else result
                for place, result in enumerate(results)
            ]

        answer = finish_shard(self._context.store, task, grade_many, self._context.spec.grader)
        return ShardGraded(answer, tuple(not_compared))

    def _results(
        self, items: list[tuple[str, Query]]
    ) -> tuple[Sequence[GradeResult | None], dict[int, str]]:
        """Results in the order of the items, and by position why there is none."""
        try:
            return self._graders.grade_many(items), {}
        except GradingFailed as failed:
            return failed.results, dict(failed.failures)


class StageActor(PoolActor):
    """Stages in a Ray actor. Grading processes start when there is something to grade."""

    def __init__(self, spec: RunSpec, store: Store, cache: str | None) -> None:
        super().__init__(store, cache)
        self._spec = spec

    def _start(self, work: StageWork) -> None:
        store, config = reach_store(self._store, "a stage worker"), self._spec.config
        trusted = config.policy.trust_remote_code
        take_code_folder(self._cache, trusted)
        decoders = PolicyDecoders(store, tree_cache(self._cache), trusted=trusted)
        context = TaskContext(store, self._spec, decoders)
        processes = config.grade.processes or max(2, (os.cpu_count() or 1) // 2)
        graders = GradePool(
            processes,
            config.grade.deadline_s,
            config.prompt.shapes,
            start_s=config.grade.start_s,
            stall_s=config.grade.hang_s,
        )
        self._worker = Stages(context, graders)

    def run(self, work: StageWork) -> CallResult:
        """One task."""
        self._beat(work.key)
        return super().run(work)

    def progress(self) -> tuple[int, str]:
        """That it answers at all is progress: each answer that is graded has a deadline of its own,
        and so has each call of the store. A process that was stopped does not answer."""
        self._beat()
        return self._beat.read()


def stage_settings(config: Config) -> PoolSettings:
    """One actor on the driver's own node, beside what else is there."""
    return replace(
        PoolSettings.patient(config.cluster),
        inflight=INFLIGHT,
        here=True,
        start_s=config.grade.start_s,
        hang_s=config.grade.hang_s,
    )


def stage_pool(spec: RunSpec, store: Store, say: Callable[[str], None]) -> Pool:
    """One stage actor on this node; nothing starts before it is first polled."""
    return Pool(
        StageActor,
        [spec, store, cache_place(spec.config)],
        stage_settings(spec.config),
        name="stage worker",
        say=say,
    )


class PoolStages:
    """The pool as the driver's stage worker, and by `grader` as its grader.

    say: where an answer is named that could not be compared.
    """

    def __init__(self, pool: PoolLike, say: Callable[[str], None]) -> None:
        self._pool = pool
        self._say = say
        self._not_compared = 0
        self._graded: list[GradeDone | TaskLost] = []
        self._done: list[TaskDone | TaskLost] = []
        self.grader = PoolGrader(self)

    def submit(self, task: GradeTask | StageTask) -> None:
        self._pool.submit(StageWork(task))

    def poll(self) -> Sequence[TaskDone | TaskLost]:
        self._collect()
        done, self._done = self._done, []
        return done

    def poll_graded(self) -> Sequence[GradeDone | TaskLost]:
        """The shards that have been graded since the last call."""
        self._collect()
        graded, self._graded = self._graded, []
        return graded

    def _collect(self) -> None:
        for result in self._pool.poll():
            value = _value(result)
            if isinstance(value, ShardGraded):
                self._graded.append(value.answer)
                for reason in value.not_compared:
                    self._not_compared += 1
                    count = self._not_compared
                    self._say(f"unparsed, comparison {count} of this run that failed: {reason}")
            else:
                self._done.append(value)


class PoolGrader:
    """The grading half of a `PoolStages`."""

    def __init__(self, stages: PoolStages) -> None:
        self._stages = stages

    def submit(self, task: GradeTask) -> None:
        self._stages.submit(task)

    def poll(self) -> Sequence[GradeDone | TaskLost]:
        return self._stages.poll_graded()


def _value(result: Result) -> Any:
    """What a task gave.

    Raises:
        RunStopped: what a person has to mend, or that the task was given up.
    """
    failure = result.failure
    if failure is None:
        return result.value
    if failure.kind == "infrastructure":
        raise RunStopped(f"{result.key} failed {result.attempts} times: {failure.reason}")
    raise RunStopped(failure.reason)
