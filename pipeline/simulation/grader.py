"""A scripted grader: the real grading stage, where a correct answer is the gold answer's text."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.query import Query
from pipeline.simulation.mail import Mail
from pipeline.stages.grade import GradeDone, GradeTask, TaskLost, Ungraded, finish_shard
from pipeline.storage.store import Store

GRADER = "scripted-1"


@dataclass(frozen=True)
class Grading:
    """What grading one answer gives."""

    outcome: str
    extracted: str | None
    reason: str | None = None
    shape: str | None = None


class ScriptedGrader:
    """Grades at once and answers when the mail does. refused: queries that cannot be graded."""

    def __init__(self, store: Store, mail: Mail) -> None:
        self.store = store
        self.mail = mail
        self.refused: set[str] = set()

    def submit(self, task: GradeTask) -> None:
        self.mail.post(finish_shard(self.store, task, self._grade, GRADER, clock=lambda: 0.0))

    def poll(self) -> list[GradeDone | TaskLost]:
        return self.mail.deliver()

    def _grade(self, items: list[tuple[str, Query]]) -> list[Grading | Ungraded]:
        return [
            Ungraded("no number") if query.content_hash in self.refused else grade(text, query)
            for text, query in items
        ]


def grade(text: str, query: Query) -> Grading:
    """A response's outcome."""
    answer = text.rpartition("# Answer\n\n")[2]
    if not answer:
        return Grading("unparsed", None)
    return Grading("correct" if answer == query.answer else "wrong", answer)
