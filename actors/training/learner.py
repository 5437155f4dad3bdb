"""The learner group as the driver's learner: jobs in, checkpoints and policies in the store out.

What always holds:

* a job's steps are those of `pipeline.training.segments`, each done once, whether the job is run
  through, continued from a checkpoint inside it, or continued in place by the group that ended the
  last one;
* rows are made from verified selections: the ids that were sampled, under the prompt that the
  policy's own processor makes of the query;
* a checkpoint or a policy is named only after it is complete in the store.

The work is done on one thread of its own; the driver submits and polls. The group's ranks stay
alive between jobs: a job that starts where the last one ended goes on with what is in memory.
"""

from __future__ import annotations

import math
import queue
import re
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from actors.model.images import StoreImages
from actors.model.processor import Processor, load_processor
from actors.model.value_head import write_headed
from actors.supervision.failures import classify
from actors.supervision.node_cache import keep_newest
from actors.training.group import LearnerGroup
from actors.training.rows import GuardFailed, RowMaker, Rows
from pipeline.config.schema import Config
from pipeline.query import Query
from pipeline.refs import CheckpointRef
from pipeline.storage.artifacts import needed
from pipeline.storage.models import publish_folder
from pipeline.storage.store import Store
from pipeline.storage.trees import get_tree, put_content_tree
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
KEPT = 2  # folders of each kind on the local disk


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
    def checkpoint(self, folder: Path, cursor: dict[str, Any]) -> dict[str, Any]: ...
    def publish(self, folder: Path) -> None: ...
    def reset(
        self,
        policy: Path,
        checkpoint: Path | None = None,
        *,
        settings: LearnSettings | None = None,
    ) -> dict[str, Any]: ...
    def close(self) -> None: ...


Start = Callable[[LearnSettings, Path, Path | None], Group]


def ray_start(images: StoreImages) -> Start:
    """Start a group of ranks under Ray Train."""

    def start(settings: LearnSettings, policy: Path, checkpoint: Path | None) -> Group:
        return LearnerGroup.start(settings, policy, images, checkpoint)

    return start


class LetGo:
    """Asks the learner's thread to end the ranks between two jobs."""


LET_GO = LetGo()


class GroupLearner:
    """One learner group, kept alive from job to job."""

    def __init__(
        self,
        config: Config,
        store: Store,
        queries: Mapping[str, Query],
        folder: Path,
        start: Start,
        *,
        processors: Callable[[Path], Processor] = load_processor,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._store = store
        self._rows = RowMaker(store, queries, config.prompt.templates, processors)
        self._folder = folder
        self._start = start
        self._clock = clock
        self._group: Group | None = None
        # Which checkpoint the ranks' memory equals; None: nothing that a job could continue.
        self._at: str | None = None
        self._began: Path | None = None  # what the group publishes beside its weights is from there
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
        group, self._group, self._at = self._group, None, None
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
        self._doing(job, "fetching the policy and the selected responses")
        policy = self._fetch("policies", job.policy.path)
        made = self._rows.rows(policy, job.data, job.prm)
        rows = made.rows
        lengths = Lengths([row.length for row in rows], [row.units for row in rows])
        sizes = {"batch_size": self._config.learn.batch_size, "window": self._config.learn.window}
        group = self._at_start(job, resume or job.start)
        done = resume or CheckpointRef("", "", job.name, 0, job.start.step if job.start else 0)
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
            moved = self._teller(job, done, part.cursor - (part.last - part.first), total)
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
            self._tell(
                LearnProgress(
                    job.name,
                    part.cursor,
                    total,
                    metrics.loss,
                    done.tokens,
                    curve=_curve(metrics, group.settings, span),
                )
            )
            if part.save and part.cursor < total:
                done = self._save(group, done)
                self._tell(LearnSaved(job.name, done))
        self._finish(job, group, done, rows=self._row_count(job, lengths, sizes), since=started)

    def _row_count(self, job: LearnJob, lengths: Lengths, sizes: dict[str, int]) -> int:
        return sum(part.rows for part in segments(job, lengths, every=None, **sizes))

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
        done = self._save(group, done)
        self._doing(job, "storing the policy", done.cursor)
        folder = self._new_folder("policies")
        group.publish(folder)
        policy = publish_folder(self._store, folder)
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
        self._keep("policies", folder, policy.path)
        self._tell(finished)

    def _teller(
        self, job: LearnJob, done: CheckpointRef, before: int, total: int
    ) -> Callable[[str], None]:
        """Turns what the ranks say they are doing ("rank 0: step 3 of 9") into progress."""
        loss = done.nats / done.tokens if done.tokens else None

        def moved(text: str) -> None:
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
        settings = replace(
            LearnSettings.of(self._config, learning_rate=job.learning_rate),
            schedule=job.schedule,
            schedule_rise=job.schedule_rise,
            schedule_steps=job.schedule_steps,
            seed=job.seed,
            **_objective(job),
        )
        group = self._group
        at, self._at = self._at, None
        in_place = start is not None and start.path == at
        if group is not None and in_place and group.settings == settings:
            return group
        policy = self._began = self._fetch("policies", job.policy.path)
        if job.prm is not None:
            headed = self._new_folder("headed")
            policy = write_headed(policy, headed, likelihood=job.prm.likelihood)
        checkpoint = None if start is None else self._fetch("checkpoints", start.path)
        if group is None:
            self._doing(job, f"starting the learner: {settings.ranks} ranks load the policy")
            group = self._group = self._start(settings, policy, checkpoint)
        else:
            self._doing(job, "the learner begins anew from another policy or checkpoint")
            group.reset(policy, checkpoint, settings=settings)
        return group

    def _fetch(self, kind: str, path: str) -> Path:
        folder = self._folder / kind / path.rsplit("/", 1)[-1]
        with needed(path):
            get_tree(self._store, path, folder)
        folder.touch()
        keep_newest(folder.parent, KEPT, self._began)
        return folder

    def _keep(self, kind: str, folder: Path, path: str) -> None:
        """What was just stored is not fetched again by the next job."""
        target = self._folder / kind / path.rsplit("/", 1)[-1]
        if target.exists():
            shutil.rmtree(folder)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        folder.rename(target)
        keep_newest(target.parent, KEPT, self._began)

    def _new_folder(self, kind: str) -> Path:
        folder = self._folder / "new" / kind
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        return folder

    def _save(self, group: Group, done: CheckpointRef) -> CheckpointRef:
        folder = self._new_folder("checkpoints")
        group.checkpoint(folder, {"job": done.job, "cursor": done.cursor})
        # Under the run's own name: a run deletes its old checkpoints, and no other run's.
        key = f"{self._config.run.name}-{done.job.replace('/', '-')}"
        path = put_content_tree(self._store, "checkpoints", key, folder)
        self._keep("checkpoints", folder, path)
        return replace(done, path=path, sha256=path.rsplit("/", 1)[-1])

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
