"""The learner group as the driver's learner: jobs in, checkpoints and policies in the store out.

What always holds:

* a job's steps are those of `pipeline.training.segments`, each done once, whether the job is run
  through, continued from a checkpoint inside it, or continued in place by the group that ended the
  last one;
* rows are made from verified selections: the ids that were sampled, under the prompt that the
  policy's own processor makes of the query;
* a checkpoint or a policy is named only after it is complete in the store.

The work is done on one thread of its own; the driver submits and polls. The group's ranks stay
alive between jobs: a job that starts where the last one ended goes on with what is in memory. They
fetch what they read from the store and bring what they write there, wherever they are: this side
writes manifests only, once every part that one names is there.
"""

from __future__ import annotations

import math
import queue
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from actors.model.processor import Processor
from actors.supervision.failures import classify
from actors.training.checkpoint_tree import Checkpoint
from actors.training.group import LearnerGroup
from actors.training.rows import GuardFailed, RowMaker, Rows
from actors.training.source import Means, Source
from pipeline.config.schema import Config
from pipeline.query import Query
from pipeline.refs import CheckpointRef
from pipeline.storage.artifacts import needed
from pipeline.storage.models import policy_at
from pipeline.storage.store import Store
from pipeline.storage.tree_cache import TreeCache
from pipeline.training.job import (
    LearnDone,
    LearnEvent,
    LearnFailed,
    LearnJob,
    LearnProgress,
    LearnSaved,
    StepPoint,
)
from pipeline.training.metrics import TrainMetrics
from pipeline.training.rows import TrainRow
from pipeline.training.segments import Lengths, first_batch, segments, steps_of
from pipeline.training.settings import LearnSettings, Span, check_rate, learning_rate_at

_STEP = re.compile(r"step (\d+) of")


class Group(Protocol):
    """What is used of `actors.training.group.LearnerGroup`."""

    settings: LearnSettings

    def train(
        self,
        rows: Sequence[TrainRow],
        seed: int,
        *,
        first: int = 0,
        last: int | None = None,
        span: Span | None = None,
        progress: Callable[[str], None] | None = None,
    ) -> TrainMetrics: ...
    def logprobs(
        self, rows: Sequence[TrainRow], temperature: float, top_p: float = 1.0
    ) -> list[tuple[float, ...]]: ...
    def checkpoint(self, cursor: dict[str, Any]) -> Checkpoint: ...
    def stored(self, checkpoint: Checkpoint) -> bool: ...
    def settle(self) -> None: ...
    def publish(self) -> str: ...
    def reset(self, source: Source, settings: LearnSettings) -> dict[str, Any]: ...
    def close(self) -> None: ...


Start = Callable[[LearnSettings, Source], Group]


def ray_start(means: Means) -> Start:
    """Start a group of ranks under Ray Train."""

    def start(settings: LearnSettings, source: Source) -> Group:
        return LearnerGroup.start(settings, source, means)

    return start


class LetGo:
    """Asks the learner's thread to end the ranks between two jobs."""


LET_GO = LetGo()


@dataclass(frozen=True)
class Saving:
    """A checkpoint whose parts are on their way to the store. inside: of its job, not its end."""

    checkpoint: Checkpoint
    ref: CheckpointRef
    inside: bool


class GroupLearner:
    """One learner group, kept alive from job to job."""

    def __init__(
        self,
        config: Config,
        store: Store,
        queries: Mapping[str, Query],
        cache: TreeCache,
        start: Start,
        *,
        processors: Callable[[Path], Processor] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._store = store
        self._rows = RowMaker(
            store,
            queries,
            config.prompt.templates,
            processors,
            trusted=config.policy.trust_remote_code,
        )
        self._cache = cache
        self._start = start
        self._clock = clock
        self._group: Group | None = None
        # Which checkpoint the ranks' memory equals; None: nothing that a job could continue.
        self._at: str | None = None
        self._saving: Saving | None = None
        self._jobs: queue.SimpleQueue[tuple[LearnJob, CheckpointRef | None] | LetGo | None]
        self._jobs = queue.SimpleQueue()
        self._events: queue.SimpleQueue[LearnEvent | BaseException] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="learner", daemon=True)
        self._thread.start()

    # --- for the driver ------------------------------------------------------------------------

    def submit(self, job: LearnJob, resume: CheckpointRef | None) -> None:
        self._jobs.put((job, resume))

    def poll(self) -> Sequence[LearnEvent]:
        found: list[LearnEvent] = []
        while not self._events.empty():
            event = self._events.get()
            if isinstance(event, BaseException):
                raise event
            found.append(event)
        return found

    def let_go(self) -> None:
        """End the ranks once no job is under way: another role waits for their room."""
        self._jobs.put(LET_GO)

    def close(self) -> None:
        """End the ranks; a job that is under way ends with its group."""
        self._jobs.put(None)
        self._end_group()

    def _end_group(self) -> None:
        group, self._group, self._at, self._saving = self._group, None, None, None
        if group is not None:
            group.close()

    # --- the learner's thread ------------------------------------------------------------------

    def _serve(self) -> None:
        while (work := self._jobs.get()) is not None:
            if isinstance(work, LetGo):
                self._end_group()
                continue
            job, resume = work
            try:
                self._run(job, resume)
            except BaseException as error:  # noqa: BLE001  goes to the driver: it polls
                # What the ranks hold now is not known: the next job starts others.
                self._end_group()
                self._events.put(_failed(job, error) or error)

    def _run(self, job: LearnJob, resume: CheckpointRef | None) -> None:
        started = self._clock()
        made = self._made(job)
        rows = made.rows
        lengths = Lengths([row.length for row in rows], [row.units for row in rows])
        sizes = {"batch_size": self._config.learn.batch_size, "window": self._config.learn.window}
        group = self._at_start(job, resume or job.start)
        done = resume or CheckpointRef("", "", job.name, 0, job.first_step)
        if job.check_logprobs and resume is None:
            self._doing(job, "comparing log-probabilities with the engine's")
            first = first_batch(job, lengths, **sizes)
            deviation = self._compare(job, group, made, first)
            done = replace(done, logprob_deviation=deviation)
        total = steps_of(job, lengths, **sizes)
        span = job.span_of(total)
        check_rate(group.settings, job.first_step, total, span)
        every = self._config.learn.checkpoint_steps
        for part in segments(job, lengths, every=every, cursor=done.cursor, **sizes):
            moved = self._teller(job, group, done, part.cursor - (part.last - part.first), total)
            metrics = group.train(
                rows, part.seed, first=part.first, last=part.last, span=span, progress=moved
            )
            done = replace(
                done,
                cursor=part.cursor,
                step=metrics.step,
                nats=done.nats + metrics.loss * metrics.tokens,
                tokens=done.tokens + part.tokens,
            )
            loss, curve = metrics.loss, _curve(metrics, group.settings, span)
            self._tell(LearnProgress(job.name, part.cursor, total, loss, done.tokens, "", curve))
            if part.save and part.cursor < total:
                done = self._save(group, done, inside=True)
        count = sum(part.rows for part in segments(job, lengths, every=None, **sizes))
        self._finish(job, group, done, rows=count, since=started)

    def _made(self, job: LearnJob) -> Rows:
        """The rows of a job, rendered by its policy's processor."""
        self._doing(job, "fetching the policy and the selected responses")
        tree = self._cache.tree(self._store, job.policy.path, weights=False)
        with needed(job.policy.path), tree as policy:
            processor = self._rows.processor(policy)
        if job.gold:
            return self._rows.gold(processor, job.gold)
        return self._rows.rows(processor, job.data, job.prm)

    def _finish(
        self,
        job: LearnJob,
        group: Group,
        done: CheckpointRef,
        *,
        rows: int,
        since: float,
    ) -> None:
        deviation, done = done.logprob_deviation, replace(done, logprob_deviation=None)
        self._doing(job, "storing the checkpoint", done.cursor)
        done = self._save(group, done, inside=False)
        self._doing(job, "storing the policy", done.cursor)
        policy = policy_at(group.publish())
        self._settle(group)
        self._at = done.path
        finished = LearnDone(
            job=job.name,
            checkpoint=done,
            policy=policy,
            steps=done.cursor,
            rows=rows,
            tokens=done.tokens,
            loss=done.nats / max(1, done.tokens),
            seconds=self._clock() - since,
            logprob_deviation=deviation,
        )
        self._tell(finished)

    def _teller(
        self, job: LearnJob, group: Group, done: CheckpointRef, before: int, total: int
    ) -> Callable[[str], None]:
        """Turns what the ranks say they are doing ("rank 0: step 3 of 9") into progress, and names
        the last checkpoint once all of it is in the store."""
        loss = done.nats / done.tokens if done.tokens else None

        def moved(text: str) -> None:
            if self._saving is not None and group.stored(self._saving.checkpoint):
                self._complete()
            found = _STEP.search(text)
            if found is not None:
                steps = before + int(found.group(1)) - 1
                self._tell(LearnProgress(job.name, steps, total, loss, done.tokens))

        return moved

    def _doing(self, job: LearnJob, what: str, done: int = 0) -> None:
        """Say what takes time besides training steps; done: all steps of the job, at its end."""
        self._tell(LearnProgress(job.name, done, done, None, 0, doing=what))

    def _tell(self, event: LearnEvent) -> None:
        self._events.put(event)

    # --- where a job starts --------------------------------------------------------------------

    def _at_start(self, job: LearnJob, start: CheckpointRef | None) -> Group:
        """The group, its memory equal to where the job begins."""
        settings = LearnSettings.of(
            self._config,
            learning_rate=job.learning_rate,
            schedule=job.schedule,
            schedule_rise=job.schedule_rise,
            schedule_steps=job.schedule_steps,
            seed=job.seed,
            inherit=job.inherit if start == job.start else "all",
            **_objective(job),
        )
        group = self._group
        at, self._at = self._at, None
        in_place = start is not None and start.path == at and settings.inherit == "all"
        if group is not None and in_place:
            as_continued = group.settings.model_copy(update={"inherit": "all"})
            if as_continued == settings:
                return group
        source = Source(
            (job.weights or job.policy).path,
            None if start is None else start.path,
            head=job.prm is not None,
            likelihood=job.prm is not None and job.prm.likelihood,
        )
        if group is None:
            self._doing(job, f"starting the learner: {settings.ranks} ranks load the policy")
            group = self._group = self._start(settings, source)
        else:
            self._doing(job, "the learner begins anew from another policy or checkpoint")
            group.reset(source, settings)
        return group

    # --- checkpoints ---------------------------------------------------------------------------

    def _save(self, group: Group, done: CheckpointRef, *, inside: bool) -> CheckpointRef:
        """Have the ranks write a checkpoint; training goes on while it is on its way to the store,
        and it is named when it is there."""
        self._settle(group)
        made = group.checkpoint({"job": done.job, "cursor": done.cursor})
        ref = replace(done, path=made.path, sha256=made.manifest.sha256)
        self._saving = Saving(made, ref, inside)
        return ref

    def _settle(self, group: Group) -> None:
        """Wait for the checkpoint that is on its way, and complete it."""
        if self._saving is not None:
            group.settle()
            self._complete()

    def _complete(self) -> None:
        saving, self._saving = self._saving, None
        assert saving is not None
        saving.checkpoint.complete(self._store)
        if saving.inside:
            self._tell(LearnSaved(saving.ref.job, saving.ref))

    # --- the guard -----------------------------------------------------------------------------

    def _compare(self, job: LearnJob, group: Group, made: Rows, first: Sequence[int]) -> float:
        """Mean deviation, in nats, of the learner's log-probabilities from the engine's."""
        batch = [made.rows[index] for index in first]
        ours = group.logprobs(batch, job.temperature, job.top_p)
        pairs = [
            (a, b)
            for index, mine_T in zip(first, ours, strict=True)
            for a, b in zip(mine_T, made.logprobs[index], strict=True)
        ]
        deviation = math.fsum(abs(a - b) for a, b in pairs) / max(1, len(pairs))
        allowed = self._config.learn.logprob_tolerance
        if not deviation <= allowed:
            raise GuardFailed(
                f"the learner's log-probabilities of the first batch differ from the engine's by "
                f"{deviation:.4g} nats on average, allowed are {allowed:.4g} "
                "(learn.logprob_tolerance): stale weights, another prompt or image, or kernels of "
                "lower precision"
            )
        return deviation


def _curve(
    metrics: TrainMetrics, settings: LearnSettings, span: Span | None
) -> tuple[StepPoint, ...]:
    """The steps of one call of `train`, which ended with optimizer step `metrics.step`."""
    first = metrics.step - metrics.steps
    pairs = zip(metrics.loss_S, metrics.grad_norm_S, strict=True)
    return tuple(
        StepPoint(first + place + 1, loss, norm, learning_rate_at(first + place, settings, span))
        for place, (loss, norm) in enumerate(pairs)
    )


def _objective(job: LearnJob) -> dict[str, Any]:
    """The settings of a job that trains a process reward model."""
    if job.prm is None:
        return {}
    return {"objective": "steps", "step_loss": job.prm.loss, "frozen": job.prm.frozen}


def _failed(job: LearnJob, error: BaseException) -> LearnFailed | None:
    """What the driver hears of a failure that has a meaning."""
    failure = classify(error)
    if failure is None:
        return None
    return LearnFailed(job.name, failure.kind, failure.reason, failure.path)
