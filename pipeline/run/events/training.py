"""Events of training: a checkpoint saved or lost, a job done or skipped, checkpoints retired."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pipeline.refs import PRM_ROLLOUTS, CheckpointRef, PolicyRef
from pipeline.run.events.event import Event, LossEvent
from pipeline.run.state import JobState, State
from pipeline.training.job import LearnDone


def _in_use(state: State, path: str) -> None:
    """A job that starts again from its beginning makes equal checkpoints again."""
    state.retired = [retired for retired in state.retired if retired != path]


@dataclass(frozen=True)
class CheckpointSaved(Event):
    """A checkpoint inside a job is complete in the store. key: of the job."""

    type = "checkpoint_saved"

    job: str
    key: str
    checkpoint: CheckpointRef

    def fold(self, state: State) -> None:
        state.jobs[self.job] = JobState(self.key, self.checkpoint)
        _in_use(state, self.checkpoint.path)


@dataclass(frozen=True)
class CheckpointLost(LossEvent):
    """A job's checkpoint is corrupt or gone: the job starts again from its beginning."""

    type = "checkpoint_lost"

    job: str

    def fold(self, state: State) -> None:
        job = state.jobs[self.job]
        if job.checkpoint is not None and job.checkpoint.path == self.path:
            job.checkpoint = None


@dataclass(frozen=True)
class JobDone(LearnDone, Event):
    """A learning job gave its policy. key: of the job; adopted: another run trained it."""

    type = "job_done"
    LATER = ("adopted",)
    COMPARED = ("job", "policy", "steps", "rows", "tokens", "loss")

    key: str = field(kw_only=True)
    adopted: bool = False

    def fold(self, state: State) -> None:
        state.jobs[self.job] = JobState(
            key=self.key,
            checkpoint=self.checkpoint,
            policy=self.policy,
            steps=self.steps,
            done=True,
            report={
                "rows": self.rows,
                "tokens": self.tokens,
                "loss": self.loss,
                "seconds": self.seconds,
                "logprob_deviation": self.logprob_deviation,
            },
        )
        state.policies[self.job] = self.policy
        _in_use(state, self.checkpoint.path)
        if self.job == "prm/0":
            # Trained again, on labels that came out otherwise: the scores are of the other PRM.
            for shard in state.shards.get(PRM_ROLLOUTS, {}).values():
                shard.scores, shard.choice = None, {}

    def compared(self) -> dict[str, Any]:
        """Of the checkpoint not the path, which in older runs holds the run's name."""
        kept = self.checkpoint
        checkpoint = {"sha256": kept.sha256, "cursor": kept.cursor, "step": kept.step}
        return {**super().compared(), "checkpoint": checkpoint}


@dataclass(frozen=True)
class JobSkipped(Event):
    """Nothing was selected, so nothing was trained: the policy stays."""

    type = "job_skipped"
    COMPARED = ("job", "policy")

    job: str
    policy: PolicyRef

    def fold(self, state: State) -> None:
        state.jobs[self.job] = JobState(policy=self.policy, done=True)
        state.policies[self.job] = self.policy


@dataclass(frozen=True)
class WarmupChosen(Event):
    """Which training round of the warm-up is the warm-up policy."""

    type = "warmup_chosen"
    COMPARED = ("name",)

    name: str

    def fold(self, state: State) -> None:
        state.warmup = self.name
        state.policies["warmup"] = state.policies[self.name]


@dataclass(frozen=True)
class Retired(Event):
    """Checkpoints that no future job continues from: they are deleted after this event."""

    type = "retired"

    paths: tuple[str, ...]

    def fold(self, state: State) -> None:
        gone = self.drops()
        state.retired = sorted(gone)
        for job in state.jobs.values():
            if job.checkpoint is not None and job.checkpoint.path in gone:
                job.checkpoint = None

    def drops(self) -> frozenset[str]:
        return frozenset(self.paths)
