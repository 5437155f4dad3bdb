"""What a worker answers once a shard is graded or scored; the events of it are these and its place.

A field that is new here is new in the ledger: give it a default, and name it in `LATER` of the
event.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pipeline.generation.fleet import BadQuery
from pipeline.selection.coverage import Coverage


@dataclass(frozen=True)
class GradeDone:
    """Grades, and the selection where a rule was given, lie in the store. Rows of bad queries (of
    which some answer could not be graded) are in neither. choice: as of a `ScoreDone`.
    shapes: how many answers were stated in another shape than ours, by shape. Of unlabelled
    queries, classes: where the classes of equal answers lie; truth: by query whose hidden answer is
    there, the classes equal to it; votes: the pseudo-label of each query, if they have voted."""

    key: str
    rollout: str
    grades: str
    selected: str | None
    coverage: Coverage
    seconds: float
    bad: tuple[BadQuery, ...] = ()
    choice: dict[str, Any] = field(default_factory=dict)
    shapes: dict[str, int] = field(default_factory=dict)
    classes: str = ""
    truth: dict[str, list[int]] = field(default_factory=dict)
    votes: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class ScoreDone:
    """Scores, and the selection where a rule was given, lie in the store.

    excluded: responses without a score by reason. choice: what of those that could be kept was
    (`pipeline.selection.coverage.choice_report`). votes: the pseudo-label of each unlabelled query.
    """

    key: str
    rollout: str
    scores: str
    selected: str | None
    coverage: Coverage | None
    excluded: dict[str, int]
    choice: dict[str, Any]
    seconds: float
    votes: dict[str, dict[str, Any]] = field(default_factory=dict)
