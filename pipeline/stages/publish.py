"""Publication of a model folder of the user's as a policy in the store."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.hashing import key_of
from pipeline.refs import PolicyRef
from pipeline.stages.tasks import TaskContext
from pipeline.storage.models import publish_folder


@dataclass(frozen=True)
class PublishTask:
    """Put a folder of this machine into the store."""

    folder: str

    @property
    def key(self) -> str:
        """The folder's name: what it holds is found by the task."""
        return key_of("publish", self.folder)

    def run(self, context: TaskContext) -> PolicyRef:
        """The policy.

        Raises:
            BadModel: there is no such folder, or it is empty.
        """
        return publish_folder(context.store, Path(self.folder))
