"""Events of exploration: a temperature chosen, a policy's dynamics evaluated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline.run.events.event import Event
from pipeline.run.state import State


@dataclass(frozen=True)
class TemperatureChosen(Event):
    """The temperature of this iteration and those after it, and all that it was chosen by.

    version: of the policy that was sampled. temperature, today: the new one, and the one in force
    before. mode: how it was decided; figure: what was to be maximal; ranked_by: what Reward-Pass@2
    ranks by, None for Pass@K. samples: K. curve: the figure at each temperature, with its interval;
    gains: of each other temperature over today's, and the least that it is (`bound`, None by
    argmax).
    """

    type = "temperature_chosen"
    COMPARED = (
        "iteration", "version", "temperature", "today", "mode", "figure", "ranked_by", "samples",
        "curve", "gains",
    )  # fmt: skip

    iteration: int
    version: str
    temperature: float
    today: float
    mode: str
    figure: str
    ranked_by: str | None
    samples: int
    curve: dict[str, dict[str, Any]]
    gains: dict[str, dict[str, float | None]]

    def fold(self, state: State) -> None:
        state.temperatures.append(self.compared())


@dataclass(frozen=True)
class DynamicsEvaluated(Event):
    """What the policy before this iteration can do, on validation questions.

    ranked_by: what Reward-Pass@k ranks by, None where nothing ranks. rows: by temperature, as of
    `pipeline.metrics.dynamics.dynamics_row`.
    """

    type = "dynamics_evaluated"
    COMPARED = ("iteration", "version", "ranked_by", "rows")

    iteration: int
    version: str
    ranked_by: str | None
    rows: dict[str, dict[str, Any]]

    def fold(self, state: State) -> None:
        state.dynamics.append(self.compared())
