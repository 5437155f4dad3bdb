"""Events of the process reward model: its labels made or lost, the model judged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline.refs import PRM_ROLLOUTS, PolicyRef, ShardSet
from pipeline.run.events.event import Event, LossEvent
from pipeline.run.state import State


@dataclass(frozen=True)
class LabelsMade(Event):
    """The Monte-Carlo values of steps lie in the store (paper section 3). trained, held_out: how
    many responses have them; counts: of the questions they come from; cost: in completions."""

    type = "labels_made"
    COMPARED = ("path", "trained", "held_out", "counts", "cost")

    path: str
    trained: int
    held_out: int
    counts: dict[str, Any]
    cost: dict[str, Any]

    def fold(self, state: State) -> None:
        state.labels = self.compared()
        state.shards = {
            purpose: shards
            for purpose, shards in state.shards.items()
            if not ShardSet(purpose).is_round
        }


@dataclass(frozen=True)
class LabelsLost(LossEvent):
    """The step values are corrupt or gone: they are made again, from the completions that are in
    the store."""

    type = "labels_lost"

    def fold(self, state: State) -> None:
        state.labels = None
        state.closed = {
            purpose: sums
            for purpose, sums in state.closed.items()
            if not ShardSet(purpose).is_round
        }


@dataclass(frozen=True)
class PrmJudged(Event):
    """The gate's verdict on a trained PRM. card: its measurements; reasons: where it falls short;
    used: whether the run selects by it."""

    type = "prm_judged"
    COMPARED = ("version", "path", "used", "reasons", "card")

    version: str
    path: str
    used: bool
    reasons: list[str]
    card: dict[str, Any]

    def fold(self, state: State) -> None:
        state.policies["prm"] = PolicyRef(self.version, self.path)
        state.prm = {"used": self.used, "reasons": list(self.reasons), "card": dict(self.card)}
        state.shards.pop(PRM_ROLLOUTS, None)
