"""Publication of a model folder of the user's as a policy in the store."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pipeline.model_settings import ModelSettings
from pipeline.refs import PolicyRef
from pipeline.stages.tasks import StageTask, TaskContext
from pipeline.storage.models import publish_folder


@dataclass(frozen=True)
class PublishTask(StageTask):
    """Put a folder of this machine into the store, with how it is read."""

    folder: str
    settings: ModelSettings = field(default_factory=ModelSettings)

    def run(self, context: TaskContext) -> PolicyRef:
        """The policy.

        Raises:
            BadModel: there is no such folder, it is empty, or it was trained with other settings.
        """
        return publish_folder(context.store, Path(self.folder), settings=self.settings)
