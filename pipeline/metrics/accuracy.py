"""How a policy does on a set of questions: one summary for all of them and one for each family.

What always holds: beside an accuracy stand the figures it must be read against (what blind guessing
and a constant answer would score, how often the format broke, how often the grader gave up), and
every interval that is bootstrapped resamples questions by the images they share.

Axes: Q questions, K samples of a question.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.metrics.intervals import REPLICATES, Estimate, proportion
from pipeline.metrics.pass_at_k import headroom, pass_at_k_mean
from pipeline.query import Query

OUTCOMES = frozenset({"correct", "wrong", "unparsed", "timeout"})


def image_groups(queries_Q: Sequence[Query]) -> list[int]:
    """A group number for each query: two queries share it if a chain of common images joins them.

    A query without images is a group of its own.
    """
    parent = list(range(len(queries_Q)))

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    first_with: dict[str, int] = {}
    for index, query in enumerate(queries_Q):
        for sha in query.images:
            parent[root(index)] = root(first_with.setdefault(sha, index))
    return [root(index) for index in range(len(queries_Q))]


@dataclass(frozen=True)
class Summary:
    """How a policy does on one set of questions.

    greedy: share whose greedy response is correct; Wilson interval. `timeout` is not correct, but
        it is not the policy's mistake either: see `timeouts`.
    unparsed: share whose greedy response breaks the format; Wilson interval.
    timeouts: how many greedy responses the grader did not finish with.
    chance: expected accuracy of a blind guess: 1 / number of choices, 1/2 for yes or no, and for
        free-form questions the probability that the gold answer of a random question of the same
        family is right.
    majority: accuracy of always giving the family's most frequent gold answer; counted on these
        very questions, so no constant answer does better.
    pass_at: k to Pass@k (unbiased; bootstrapped by group); empty without samples.
    headroom: k to Pass@k minus greedy, paired; empty without samples.
    """

    greedy: Estimate
    unparsed: Estimate
    timeouts: int
    chance: float
    majority: float
    pass_at: Mapping[int, Estimate]
    headroom: Mapping[int, Estimate]


def summarise(
    queries_Q: Sequence[Query],
    outcomes_Q: Sequence[str],
    correct_Q_K: Sequence[Sequence[bool]] | None = None,
    *,
    ks: Sequence[int] = (),
    seed: int,
    reps: int = REPLICATES,
) -> dict[str, Summary]:
    """A summary of all questions ("all") and of each family (`Query.source`), families sorted.

    Args:
        outcomes_Q: how each greedy response was graded (`OUTCOMES`).
        correct_Q_K: for each question, which of its K samples are correct.
        ks: the k of Pass@k to report, each at most K; needs `correct_Q_K`.
    """
    _check(queries_Q, outcomes_Q, correct_Q_K, ks)
    groups_Q = image_groups(queries_Q)
    blind_Q = blind_guesses(queries_Q)

    def row(members: list[int]) -> Summary:
        outcomes = [outcomes_Q[i] for i in members]
        greedy = [outcome == "correct" for outcome in outcomes]
        groups = [groups_Q[i] for i in members]
        samples = [correct_Q_K[i] for i in members] if correct_Q_K is not None else []
        return Summary(
            greedy=proportion(greedy),
            unparsed=proportion([outcome == "unparsed" for outcome in outcomes]),
            timeouts=outcomes.count("timeout"),
            chance=math.fsum(blind_Q[i][0] for i in members) / len(members),
            majority=sum(blind_Q[i][1] for i in members) / len(members),
            pass_at={k: pass_at_k_mean(samples, groups, k, seed=seed, reps=reps) for k in ks},
            headroom={k: headroom(samples, greedy, groups, k, seed=seed, reps=reps) for k in ks},
        )

    return {name: row(members) for name, members in _families(queries_Q).items()}


def _check(
    queries_Q: Sequence[Query],
    outcomes_Q: Sequence[str],
    correct_Q_K: Sequence[Sequence[bool]] | None,
    ks: Sequence[int],
) -> None:
    samples_Q = outcomes_Q if correct_Q_K is None else correct_Q_K
    if not len(queries_Q) == len(outcomes_Q) == len(samples_Q):
        raise ValueError("give one outcome, and one row of samples, for each query")
    if unknown := set(outcomes_Q) - OUTCOMES:
        raise ValueError(f"unknown outcomes: {sorted(unknown)}")
    if ks and correct_Q_K is None:
        raise ValueError("Pass@k needs samples: give correct_Q_K, or no ks")


def _families(queries_Q: Sequence[Query]) -> dict[str, list[int]]:
    """The positions of all questions ("all") and of each family's, families sorted."""
    found: dict[str, list[int]] = {"all": list(range(len(queries_Q)))}
    for family in sorted({query.source for query in queries_Q}):
        found[family] = [i for i, query in enumerate(queries_Q) if query.source == family]
    return found


def blind_guesses(queries_Q: Sequence[Query]) -> list[tuple[float, bool]]:
    """For each question: the chance of a blind guess, and whether the family's mode is its answer.

    Gold answers are compared as strings; ties for the mode go to the one seen first.
    """
    golds: dict[str, Counter[str | None]] = {}
    for query in queries_Q:
        golds.setdefault(query.source, Counter())[query.answer] += 1
    return [(_chance(q, golds[q.source]), q.answer == _mode(golds[q.source])) for q in queries_Q]


def _chance(query: Query, golds: Counter[str | None]) -> float:
    if query.choices:
        return 1.0 / len(query.choices)
    if query.answer_type == "yes_no":
        return 0.5
    return golds[query.answer] / golds.total()


def _mode(golds: Counter[str | None]) -> str | None:
    return golds.most_common(1)[0][0]
