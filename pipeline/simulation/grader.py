"""A scripted grader: the real grading stage, where a correct answer is the gold answer's text."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from pipeline.answer_shapes import Shape, stated_answer
from pipeline.query import Query
from pipeline.simulation.mail import Answers, Mail
from pipeline.stages.grade import GradeTask, Ungraded, finish_shard
from pipeline.storage.store import Store

GRADER = "scripted-1"


@dataclass(frozen=True)
class Grading:
    """What grading one answer gives."""

    outcome: str
    extracted: str | None
    reason: str | None = None
    shape: str | None = None


class ScriptedGrader(Answers):
    """Grades at once and answers when the mail does. shapes: in which answers are read besides
    ours. refused: queries that cannot be graded."""

    def __init__(self, store: Store, mail: Mail, shapes: Collection[Shape] = ()) -> None:
        self.store = store
        self.mail = mail
        self.shapes = shapes
        self.refused: set[str] = set()

    def submit(self, task: GradeTask) -> None:
        self.mail.post(finish_shard(self.store, task, self._grade, GRADER, clock=lambda: 0.0))

    def _grade(self, items: list[tuple[str, Query]]) -> list[Grading | Ungraded]:
        return [
            Ungraded("no number")
            if query.content_hash in self.refused
            else grade(text, query, self.shapes)
            for text, query in items
        ]


def grade(text: str, query: Query, shapes: Collection[Shape] = ()) -> Grading:
    """A response's outcome."""
    stated = stated_answer(text, shapes)
    if stated is None:
        return Grading("unparsed", None)
    outcome = "correct" if stated.text == query.answer else "wrong"
    return Grading(outcome, stated.text, shape=stated.shape)
