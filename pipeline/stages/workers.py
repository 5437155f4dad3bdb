"""What the driver asks of the world, and what the world answers: the only ways out of it.

Three protocols, all of one shape: `submit` hands over a piece of work and returns at once, `poll`
returns what has become ready since, in any order, perhaps twice, perhaps never (then the piece is
submitted again by the next driver). A piece of work names its inputs by store path and its answer
names what it made by store path; no bytes pass through the driver.

Failures come back as values, already told apart where that was possible: what is the fleet's fault
has been retried by it and comes here only when it gave up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pipeline.generation.fleet import Fleet
from pipeline.run.events.event import Event
from pipeline.run.events.lifecycle import PoolResized
from pipeline.run.state import State
from pipeline.stages.grade import Grader
from pipeline.stages.score import Scorer
from pipeline.stages.tasks import StageWorker
from pipeline.training.job import Learner, StepPoint

# --- looking on ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Progress:
    """How far a stage has come, in `unit`s; `total` is 0 while unknown. curve: training steps."""

    stage: str
    done: int
    total: int
    unit: str
    note: str = ""
    curve: tuple[StepPoint, ...] = ()


class Watch:
    """Who looks on: a console, TensorBoard, a test. Changes nothing; this one does nothing."""

    def event(self, event: Event, state: State) -> None:
        """An event was committed and folded into the `State`."""

    def progress(self, progress: Progress) -> None:
        """Something moved."""

    def say(self, text: str) -> None:
        """A line for a person."""

    def close(self) -> None:
        """Nothing more will come."""


def cannot_repair(path: str) -> bool:
    """Nothing outside the store holds a copy."""
    return False


@dataclass(frozen=True)
class Workers:
    """The roles of one run.

    repair: puts an object that is corrupt or gone into the store again, from a copy elsewhere (an
    image of the data set, the base policy's folder); False when there is none.
    check: asked while nothing is ready. Raises RunStopped where nothing can ever be again.
    resized: the changes of size of its pools since the last call.
    """

    fleet: Fleet
    grader: Grader
    learner: Learner
    stage: StageWorker
    scorer: Scorer | None = None
    versions: dict[str, str] = field(default_factory=dict)
    repair: Callable[[str], bool] = cannot_repair
    check: Callable[[], None] = lambda: None
    resized: Callable[[], Sequence[PoolResized]] = lambda: ()
