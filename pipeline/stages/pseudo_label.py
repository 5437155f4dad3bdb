"""Grading without a gold answer: which answers to an unlabelled query are equal, and the votes.

    rollouts ──► answers that can be read ──► classes of equal ones ──► vote ──► outcomes ──► select

An answer is compared with itself first (whoever cannot be read as the query's type, or not in
time, does not vote), then with the first of each class, by the run's own grader and under its
deadline. The hidden answer is looked at in one place, `truth_of`, for the rate of correct
pseudo-labels that a run reports; nothing that is stored for training depends on it.

Axes: K samples of a query.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from pipeline.answer_shapes import Shape, StatedAnswer, stated_answer
from pipeline.hashing import key_of
from pipeline.query import Query
from pipeline.records import AnswerClass, Grade, Rollout
from pipeline.selection.pseudo_labels import (
    ANSWERED,
    Place,
    PseudoLabel,
    Voting,
    vote,
    voted_outcomes,
)
from pipeline.storage.artifacts import CLASSES, put_content
from pipeline.storage.parquet import to_parquet
from pipeline.storage.store import Store


class Compared(Protocol):
    """What comparing one response with one answer gives; without an outcome: it could not be."""

    @property
    def outcome(self) -> str: ...


CompareMany = Callable[[list[tuple[str, Query]]], Sequence[Compared | None]]
"""Compares responses with the answers of their queries, in order; None: that answer is not of the
query's type."""


def read_answers(
    rows: Sequence[Rollout],
    by_hash: Mapping[str, Query],
    shapes: Collection[Shape],
    compare: CompareMany,
) -> tuple[list[Grade], list[StatedAnswer | None]]:
    """For each row its grade without a gold answer, "answered", "unparsed" or "timeout", and what
    it states."""
    stated = [stated_answer(row.text, shapes) for row in rows]
    places = [place for place, answer in enumerate(stated) if answer is not None]
    results = compare([(rows[i].text, _asking(by_hash[rows[i].query], stated[i])) for i in places])
    outcomes = ["unparsed"] * len(rows)
    for place, result in zip(places, results, strict=True):
        if result is not None and result.outcome in ("correct", "timeout"):
            outcomes[place] = ANSWERED if result.outcome == "correct" else "timeout"
    return [
        Grade(row.query, row.sample_index, outcome, None if answer is None else answer.text)
        for row, outcome, answer in zip(rows, outcomes, stated, strict=True)
    ], stated


def _asking(query: Query, stated: StatedAnswer | Grade | None) -> Query:
    """The query as if an answer that a response states were its gold answer."""
    assert stated is not None
    text = stated.extracted if isinstance(stated, Grade) else stated.text
    return replace(query, answer=text, unlabelled=False)


def classify(
    rows: Sequence[Rollout],
    grades: Sequence[Grade],
    by_hash: Mapping[str, Query],
    compare: CompareMany,
) -> list[AnswerClass]:
    """For each row the class of its answer; none for one that is truncated or cannot be read.

    All queries take a round together: the first answer without a class begins one, and the others
    without are compared with it.
    """
    waiting: dict[str, list[int]] = {}
    for place, (row, grade) in enumerate(zip(rows, grades, strict=True)):
        if grade.outcome == ANSWERED and row.finish == "stop":
            waiting.setdefault(row.query, []).append(place)
    equals: dict[int, int] = {}
    while waiting:
        pairs: list[tuple[int, int]] = []  # an answer, and the first of the class
        for first, *others in waiting.values():
            equals[first] = rows[first].sample_index
            pairs += [(other, first) for other in others]
        results = compare(
            [(rows[i].text, _asking(by_hash[rows[i].query], grades[first])) for i, first in pairs]
        )
        waiting = {}
        for (place, first), result in zip(pairs, results, strict=True):
            if result is not None and result.outcome == "correct":
                equals[place] = rows[first].sample_index
            else:
                waiting.setdefault(rows[place].query, []).append(place)
    return [
        AnswerClass(row.query, row.sample_index, equals.get(place))
        for place, row in enumerate(rows)
    ]


def truth_of(
    rows: Sequence[Rollout],
    classes: Sequence[AnswerClass],
    by_hash: Mapping[str, Query],
    compare: CompareMany,
) -> dict[str, list[int]]:
    """By query whose hidden answer is there and can be read: the classes that are equal to it.

    For reports alone.
    """
    firsts = [
        (row, query)
        for row, answer in zip(rows, classes, strict=True)
        if answer.equals == row.sample_index and (query := by_hash[row.query]).answer is not None
    ]
    results = compare([(row.text, replace(query, unlabelled=False)) for row, query in firsts])
    truth: dict[str, list[int]] = {}
    for (row, _), result in zip(firsts, results, strict=True):
        if result is not None:
            equal = truth.setdefault(row.query, [])
            equal += [row.sample_index] if result.outcome == "correct" else []
    return truth


def store_classes(store: Store, rollout: str, classes: Sequence[AnswerClass], grader: str) -> str:
    """Put the classes of a rollout shard into the store; their path."""
    key = classes_key(rollout, grader)
    return put_content(store, CLASSES, key, to_parquet(list(classes), AnswerClass), "parquet")


def classes_key(rollout: str, grader: str) -> str:
    """Identity of the classes of one rollout object: its path and the grader's version."""
    return key_of("classes", {"rollout": rollout, "grader": grader})


def voted(
    rows: Sequence[Rollout],
    grades: Sequence[Grade],
    classes: Sequence[AnswerClass],
    rewards: Mapping[Place, float | None],
    voting: Voting,
) -> tuple[dict[str, PseudoLabel], list[str]]:
    """The pseudo-labels of a shard, and the outcomes that follow from them."""
    labels = vote(rows, grades, classes, rewards, voting)
    return labels, voted_outcomes(rows, grades, classes, labels)


def to_be_scored(grades: Iterable[Grade]) -> list[str]:
    """Outcomes for deciding what is scored before a vote: any readable answer may win it."""
    return ["correct" if grade.outcome == ANSWERED else grade.outcome for grade in grades]
