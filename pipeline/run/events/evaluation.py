"""Events of evaluation: a policy's figures on a split, and their grades lost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline.run.events.event import Event, LossEvent, Purpose
from pipeline.run.state import State, evaluation_key


@dataclass(frozen=True)
class Evaluated(Event):
    """A policy's figures on a split, greedily or sampled. grades: the objects they come from."""

    type = "evaluated"
    COMPARED = (
        "version", "split", "mode", "purpose", "grades", "result"
    )  # fmt: skip

    version: str
    split: str
    mode: str
    purpose: Purpose
    grades: list[str]
    result: dict[str, Any]

    def fold(self, state: State) -> None:
        key = evaluation_key(self.version, self.split, self.mode)
        state.evaluations[key] = {**self.result, "grades": list(self.grades)}
        state.shards.pop(self.purpose, None)


@dataclass(frozen=True)
class EvaluationLost(LossEvent):
    """Grades of an evaluation are corrupt or gone: it is made again."""

    type = "evaluation_lost"

    version: str
    split: str
    mode: str
    purpose: Purpose

    def fold(self, state: State) -> None:
        """Back to before its shards, which are adopted from the store; no run is finished
        without."""
        state.evaluations.pop(evaluation_key(self.version, self.split, self.mode), None)
        state.closed.pop(self.purpose, None)
        state.finished = None
