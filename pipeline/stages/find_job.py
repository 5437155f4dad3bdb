"""Finding a learning job that another run of the store has finished."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.stages.tasks import StageTask, TaskContext
from pipeline.training.finished import find
from pipeline.training.job import LearnDone, LearnJob
from pipeline.training.settings import numerics


@dataclass(frozen=True)
class FindJobTask(StageTask):
    """Look for what a job with the same key gave."""

    job: LearnJob

    @property
    def key(self) -> str:
        """That of the job."""
        return f"find/{self.job.key}"

    def run(self, context: TaskContext) -> LearnDone | None:
        """What is adopted; None: there is nothing, so it must be trained."""
        config = context.spec.config
        bits = numerics(config) if config.run.deterministic else None
        return find(context.store, config.run.name, self.job, bits)
