"""Publishing: a model folder of the user's put into the store, under a name of the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.driver.context import RunContext
from pipeline.errors import RunStopped
from pipeline.phases.steps import PublishFolder
from pipeline.run.events.event import Event
from pipeline.run.events.lifecycle import PolicyPublished
from pipeline.stages.publish import PublishTask
from pipeline.stages.tasks import TaskDone


@dataclass
class PublishStep:
    """A `PublishFolder` step under way: one task."""

    step: PublishFolder
    done: bool = False

    def advance(self, context: RunContext) -> Sequence[Event]:
        """Ask for the policy until it lies in the store."""
        # The worker's own working directory may be another.
        folder = str(Path(self.step.folder).resolve())
        answer = context.ask(PublishTask(folder, self.step.settings))
        if answer is None:
            return ()
        self.done = True
        if not isinstance(answer, TaskDone):
            raise RunStopped(f"{answer.path} is corrupt or gone: {answer.reason}")
        return [PolicyPublished(self.step.name, answer.value.version, answer.value.path)]
