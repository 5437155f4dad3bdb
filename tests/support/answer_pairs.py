"""The table of answers: what each is worth beside its gold answer (tests/pipeline/grading/pairs).

A row of a file is: answer type, gold answer, answer, outcome, and the choices with " ;; " between
them, if there are any; with tabs between. Lines that begin with # say what follows.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

from pipeline.grading.grade import Gold, Outcome
from pipeline.query import AnswerType

FOLDER = Path(__file__).resolve().parents[1] / "pipeline" / "grading" / "pairs"


@dataclass(frozen=True)
class Pair:
    file: str
    type: AnswerType
    wanted: str
    answer: str
    outcome: Outcome
    choices: tuple[str, ...] | None

    @property
    def gold(self) -> Gold:
        return Gold("q", self.wanted, self.type, self.choices)

    def __str__(self) -> str:
        return f"{self.file}:{self.answer}|{self.wanted}"


def read_pairs() -> list[Pair]:
    """Every row of every file."""
    pairs = []
    for path in sorted(FOLDER.glob("*.tsv")):
        for line in path.read_text("utf-8").splitlines():
            if line and not line.startswith("#"):
                kind, wanted, answer, outcome, *rest = line.split("\t")
                choices = tuple(rest[0].split(" ;; ")) if rest else None
                answer_type, said = cast(AnswerType, kind), cast(Outcome, outcome)
                pairs.append(Pair(path.stem, answer_type, wanted, answer, said, choices))
    return pairs
