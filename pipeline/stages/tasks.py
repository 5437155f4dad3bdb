"""Work on stored shards that is done outside the driver's process: its protocol.

A task is a frozen dataclass that names its inputs by store path, and `run` is a pure function of
them: reading stored objects, and storing results under their own hash. So a task may be done twice,
late, or by several processes at once, and nothing changes. The driver's loop itself reads and
writes no parquet.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from pipeline.errors import ArtifactLost
from pipeline.hashing import key_of
from pipeline.refs import PolicyRef
from pipeline.run.spec import RunSpec
from pipeline.stages.grade import TaskLost
from pipeline.storage.store import Store

Decode = Callable[[Sequence[int]], str]
"""From sampled token ids to text."""


@dataclass(frozen=True)
class TaskContext:
    """What tasks of one run are done with; a worker process has one for its whole life.

    decoder: from a policy to the decoder of its tokens (read from the policy's folder in the store;
    raises `ArtifactLost` where it cannot be); None in a run without a process reward model.
    """

    store: Store
    spec: RunSpec
    decoder: Callable[[PolicyRef], Decode] | None = None


@dataclass(frozen=True)
class StageTask(ABC):
    """One piece of work: picklable, and the same key for the same work."""

    @property
    def key(self) -> str:
        """Identity: the kind of work, and what it is about."""
        return key_of(type(self).__name__, asdict(self))

    @abstractmethod
    def run(self, context: TaskContext) -> Any:
        """The result: a small, picklable value.

        Raises:
            ArtifactLost: an object that it reads is corrupt or gone.
            UserError: something that a person has to mend.
        """


@dataclass(frozen=True)
class TaskDone:
    """A task has ended; `value` is what its `run` returned."""

    key: str
    value: Any


class StageWorker(Protocol):
    """Who does tasks, in processes of the driver's machine.

    What `run` raises other than `ArtifactLost` is raised by `poll`. A process that dies is replaced
    and its task done again; an error of the worker itself (it dies of the same task again and
    again) is raised by `poll`, too.
    """

    def submit(self, task: StageTask) -> None:
        """Do this task. Submitting a key that is under way does nothing."""

    def poll(self) -> Sequence[TaskDone | TaskLost]:
        """What has ended since the last call, in any order."""


def perform(task: StageTask, context: TaskContext) -> TaskDone | TaskLost:
    """Do a task; what every worker calls, in whichever process."""
    try:
        return TaskDone(task.key, task.run(context))
    except ArtifactLost as lost:
        return TaskLost(task.key, lost.path, lost.reason)
