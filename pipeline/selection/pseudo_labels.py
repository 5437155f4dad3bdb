"""Pseudo-labels: the answer that wins the vote of an unlabelled query's samples (paper section 4).

    argmax over answers a of the sum over samples with answer a of R_p(sample)

or with another weight than R_p. What always holds: answers are compared by classes that the grader
made (`AnswerClass`), so equal answers vote together; a truncated response, and one whose answer
cannot be read, does not vote; no gold answer is read here.

Axes: K samples of a query.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.config.selecting import VotedBy
from pipeline.records import AnswerClass, Grade, Rollout

ANSWERED = "answered"
"""Outcome of a response to an unlabelled query whose answer can be read."""

Place = tuple[str, int]
"""Query and sample index."""


@dataclass(frozen=True)
class Voting:
    """How samples vote. by: what a vote counts, R_p ("prm"), the geometric mean of the response's
    token probabilities ("logprob"), or 1 ("majority"); least_share: of the vote, below which a
    query has no pseudo-label."""

    by: VotedBy
    least_share: float = 0.0

    @property
    def identity(self) -> dict[str, object]:
        """What of it decides a selection."""
        return {"by": self.by, "least_share": self.least_share}


@dataclass(frozen=True)
class PseudoLabel:
    """The winner of one query's vote.

    sample: index of the first sample that gives it. share: of the vote, times the share of the K
    samples that voted, so that few readable answers are no agreement. taken: it is large enough.
    """

    answer: str
    sample: int
    share: float
    taken: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain form for an event."""
        return asdict(self)


def weight_of(row: Rollout, reward: float | None, by: VotedBy) -> float:
    """What a sample's vote counts; in [0, 1]. A response without a score has no weight by "prm"."""
    if by == "majority":
        return 1.0
    if by == "prm":
        return reward or 0.0
    return math.exp(math.fsum(row.logprobs) / max(1, len(row.logprobs)))


def vote(
    rows: Sequence[Rollout],
    grades: Sequence[Grade],
    classes: Iterable[AnswerClass],
    rewards: Mapping[Place, float | None],
    voting: Voting,
) -> dict[str, PseudoLabel]:
    """The pseudo-label of each query that somebody voted on, in order of first appearance.

    rows, grades: parallel, whole query groups. rewards: R_p of each sample, for "prm". Equal votes
    go to the answer whose first sample has the lower index.
    """
    class_of = {(item.query, item.sample_index): item.equals for item in classes}
    votes: dict[str, dict[int, float]] = {}
    counts: dict[str, list[int]] = {}
    for row in rows:
        place = (row.query, row.sample_index)
        counted = counts.setdefault(row.query, [0, 0])
        counted[0] += 1
        equals = class_of.get(place)
        if equals is None or row.finish != "stop":
            continue
        counted[1] += 1
        weights = votes.setdefault(row.query, {})
        weights[equals] = weights.get(equals, 0.0) + weight_of(row, rewards.get(place), voting.by)
    answers = {(grade.query, grade.sample_index): grade.extracted for grade in grades}
    labels: dict[str, PseudoLabel] = {}
    for query, weights in votes.items():
        total, (samples, voted) = math.fsum(weights.values()), counts[query]
        winner = max(weights, key=lambda equals: (weights[equals], -equals))
        share = weights[winner] / total * voted / samples if total > 0.0 else 0.0
        answer = answers[query, winner] or ""
        labels[query] = PseudoLabel(
            answer, winner, share, total > 0.0 and share >= voting.least_share
        )
    return labels


def voted_outcomes(
    rows: Sequence[Rollout],
    grades: Sequence[Grade],
    classes: Iterable[AnswerClass],
    labels: Mapping[str, PseudoLabel],
) -> list[str]:
    """Outcomes against the pseudo-labels, parallel to the rows: "correct" is equal to it.

    Of a query without one every readable answer stays "answered", which nothing is selected of.
    """
    class_of = {(item.query, item.sample_index): item.equals for item in classes}
    outcomes = []
    for row, grade in zip(rows, grades, strict=True):
        label = labels.get(row.query)
        if grade.outcome != ANSWERED or label is None or not label.taken:
            outcomes.append(grade.outcome)
        else:
            equal = class_of.get((row.query, row.sample_index)) == label.sample
            outcomes.append("correct" if equal else "wrong")
    return outcomes


def label_counts(
    queries: int,
    votes: Mapping[str, Mapping[str, Any]],
    truth: Mapping[str, Sequence[int]],
) -> dict[str, int]:
    """Of so many queries: how many were voted on, have a pseudo-label, have one whose truth is
    known, and have one that is correct.

    votes: `PseudoLabel.to_dict` by query; truth: by query whose answer is known, the classes that
    it is equal to.
    """
    taken = [query for query, label in votes.items() if label["taken"]]
    checked = [query for query in taken if query in truth]
    return {
        "queries": queries,
        "voted": len(votes),
        "taken": len(taken),
        "known": len(checked),
        "correct": sum(votes[query]["sample"] in truth[query] for query in checked),
    }
