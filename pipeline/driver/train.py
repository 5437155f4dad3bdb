"""Training: a job of the learner, from its first row to its policy, whatever dies meanwhile."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from pipeline.driver.context import RunContext
from pipeline.errors import RunStopped
from pipeline.phases.control import chains_of
from pipeline.phases.lineage import retirable
from pipeline.phases.methods import kept_for_later
from pipeline.phases.steps import Train
from pipeline.refs import CheckpointRef, ShardSet
from pipeline.run.events.event import Event
from pipeline.run.events.training import CheckpointLost, CheckpointSaved, JobDone, Retired
from pipeline.stages.find_job import FindJobTask
from pipeline.stages.tasks import TaskDone
from pipeline.stages.workers import Progress
from pipeline.training.finished import mark, record
from pipeline.training.job import LearnDone, LearnEvent, LearnFailed, LearnProgress, LearnSaved
from pipeline.training.settings import numerics


class TrainStep:
    """A `Train` step under way.

    looked for ──► found in the store: job_done, adopted
        │ no
    submitted ──► checkpoint_saved* ──► job_done
        ▲   │ a rank died: after a pause, from the last checkpoint
        └───┤
            └ an object is lost: mended, or given up; either way the step is over
    """

    def __init__(self, step: Train) -> None:
        self.step = step
        self.done = False
        self._heard: deque[LearnEvent] = deque()
        self._looked = not step.job.rule  # by the first rule no two runs have a job in common
        self._submitted = False
        self._not_before = float("-inf")
        self._failures = 0  # since the last checkpoint

    def advance(self, context: RunContext) -> Sequence[Event]:
        """Look for the job in the store; else hear the learner, as far as the next event."""
        if not self._looked:
            return self._look(context)
        learner, job = context.workers.learner, self.step.job
        if not self._submitted and context.clock() >= self._not_before:
            self._submitted = True
            learner.submit(job, self._resume_point(context))
        if self._submitted:
            self._heard += [heard for heard in context.answers(learner) if heard.job == job.name]
        events: Sequence[Event] = ()
        while self._heard and not events and not self.done:
            events = self._hear(context, self._heard.popleft())
        return events

    def _look(self, context: RunContext) -> Sequence[Event]:
        """Adopt the job where another run has finished it."""
        job = self.step.job
        answer = context.ask(FindJobTask(job))
        if answer is None:
            return ()
        self._looked = True
        found = answer.value if isinstance(answer, TaskDone) else None
        if found is None:
            return ()
        self.done = True
        context.watch.say(f"{job.name}: trained already, by another run of this store: adopted")
        done = JobDone(key=job.key, adopted=True, **vars(found))
        return [done, *self._retire(context, found.checkpoint)]

    def _hear(self, context: RunContext, heard: LearnEvent) -> Sequence[Event]:
        job = self.step.job
        match heard:
            case LearnProgress():
                note = heard.doing or ("" if heard.loss is None else f"loss {heard.loss:.3f}")
                stage, total = self.step.stage, heard.steps_total
                progress = Progress(stage, heard.steps, total, "steps", note, heard.curve)
                context.watch.progress(progress)
            case LearnSaved(checkpoint=checkpoint):
                self._failures = 0
                mark(context.store, context.spec.config.run.name, checkpoint.path, job.key)
                saved = CheckpointSaved(job.name, job.key, checkpoint)
                return [saved, *self._retire(context, checkpoint)]
            case LearnDone(checkpoint=checkpoint):
                self.done = True
                config = context.spec.config
                mark(context.store, config.run.name, checkpoint.path, job.key)
                if job.rule:
                    record(context.store, job.key, heard, numerics(config))
                return [JobDone(key=job.key, **vars(heard)), *self._retire(context, checkpoint)]
            case LearnFailed(kind="infrastructure"):
                self._back_off(context, heard)
            case LearnFailed(kind="lost"):
                self.done = True
                if not context.mended(heard.path, heard.reason):
                    return [self._lost(context, heard)]
            case LearnFailed():
                raise RunStopped(f"{job.name}: {heard.reason}")
        return ()

    def _resume_point(self, context: RunContext) -> CheckpointRef | None:
        """The last checkpoint inside this very job: same start, same rows, same settings."""
        job = context.state.jobs.get(self.step.job.name)
        return job.checkpoint if job is not None and job.key == self.step.job.key else None

    def _retire(self, context: RunContext, newest: CheckpointRef) -> list[Event]:
        """The old goes after the new is recorded; where the job started stays until the next."""
        later = kept_for_later(context.state, context.spec)
        every = not context.spec.config.learn.keep_checkpoints
        keep = (newest, self.step.job.start, *later)
        paths = retirable(context.state, keep=keep, done=every)
        return [Retired(tuple(paths))] if paths else []

    def _back_off(self, context: RunContext, failed: LearnFailed) -> None:
        self._failures += 1
        allowed = context.spec.config.learn.attempts
        if self._failures >= allowed:
            raise RunStopped(
                f"{failed.job}: the learner died {self._failures} times without a new checkpoint "
                f"(learn.attempts = {allowed}), the last time: {failed.reason}"
            )
        cluster = context.spec.config.cluster
        pause = min(cluster.backoff_most_s, cluster.backoff_s * 2.0 ** (self._failures - 1))
        context.watch.say(
            f"{failed.job}: the learner died ({failed.reason}); starting it again in {pause:g} s"
        )
        self._submitted, self._not_before = False, context.clock() + pause

    def _lost(self, context: RunContext, failed: LearnFailed) -> Event:
        """The event that gives up what the job could not read.

        Raises:
            RunStopped: it cannot be made again, or is lost again and again.
        """
        job, checkpoint = self.step.job, self._resume_point(context)
        own = checkpoint is not None and failed.path == checkpoint.path
        if own and context.may_lose(failed.path):
            context.watch.say(f"{job.name}: its checkpoint {failed.path} is lost ({failed.reason});"
                              " the job starts again from its beginning")  # fmt: skip
            return CheckpointLost(job.name, path=failed.path, reason=failed.reason)
        if job.prm is not None:
            return context.labels_lost(failed.path, failed.reason)
        phase = ShardSet(job.name).phase
        chains = chains_of(context.state, context.spec) if phase == "control" else ShardSet(phase)
        if phase == "evolve":  # of its labelled or of its unlabelled queries
            return context.loss_anywhere(failed.path, failed.reason)
        return context.loss(chains, failed.path, failed.reason)
