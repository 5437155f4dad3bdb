"""Sample selection (the paper's H): which responses to a query become training rows.

Only a sample whose answer is correct and that ended by itself is ever kept; one truncated by the
length limit never is. Equal texts are one response: the one with the lowest sample index stands
for all. What is kept is a function of the rows alone: shuffling them changes nothing.

Ties in the score go to the lower sample index. A query with fewer than k candidates gives what it
has; one with none drops out and shows in the coverage.

What ranks is a process reward model's score or, at no cost, what the rollout itself holds: its
log-likelihood under the policy that sampled it, or its length.

Axes: K samples of a query.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from pipeline.answer_shapes import OURS
from pipeline.config.selecting import SCORED, RankedBy, RuleName
from pipeline.hashing import canonical_json, sha256_hex
from pipeline.responses import extract_answer, finished_steps


class SampleRow(Protocol):
    """What selection reads of a rollout."""

    @property
    def query(self) -> str: ...
    @property
    def sample_index(self) -> int: ...
    @property
    def seed(self) -> int: ...
    @property
    def text(self) -> str: ...
    @property
    def finish(self) -> str: ...
    @property
    def token_ids(self) -> Sequence[int]: ...
    @property
    def logprobs(self) -> Sequence[float]: ...


Row = TypeVar("Row", bound=SampleRow)


@dataclass(frozen=True)
class Rule:
    """One H and its parameters; `k` counts responses of a query, `threshold` is a probability.

    ours_only: what states its answer in another shape than ours is left out. by: what a rule of
    `SCORED` ranks by. version: of the decisions (`run.rules`); from 2 on a response without a
    finished step is no candidate, whatever the rule, and a warm-up chain that shows that it knew
    its answer is none either.
    """

    name: RuleName = "all_correct"
    k: int = 2
    threshold: float = 0.5
    ours_only: bool = False
    by: RankedBy = "prm"
    version: int = 1

    @property
    def identity(self) -> dict[str, object]:
        """What of the rule decides its result: parameters it does not read are left out."""
        used: dict[str, object] = {"name": self.name}
        if self.name in ("random_k", "top_k", "bottom_k"):
            used["k"] = self.k
        if self.name == "threshold":
            used["threshold"] = self.threshold
        if self.ours_only:
            used["shape"] = OURS
        if self.name in SCORED and self.by != "prm":
            used["by"] = self.by
        if self.version > 1:
            used["version"] = self.version
        return used

    @property
    def by_prm(self) -> bool:
        """Whether it reads the scores of a process reward model."""
        return self.name in SCORED and self.by == "prm"

    @property
    def by_given(self) -> bool:
        """Whether it reads scores that are given: a PRM's, or a process checker's."""
        return self.name in SCORED and self.by in ("prm", "checker")


def dedup(rows: Sequence[Row]) -> list[Row]:
    """One row for each (query, text), the one with the lowest sample index, in order of rows."""
    best: dict[tuple[str, str], Row] = {}
    for row in rows:
        key = (row.query, row.text)
        if key not in best or row.sample_index < best[key].sample_index:
            best[key] = row
    return [row for row in rows if best[(row.query, row.text)] is row]


def candidates(rows: Sequence[Row], outcomes: Sequence[str]) -> list[Row]:
    """Distinct correct responses that ended by themselves.

    Truncated responses go before equal texts are merged, or one could stand for a complete one.
    """
    return dedup(
        [
            row
            for row, outcome in zip(rows, outcomes, strict=True)
            if outcome == "correct" and row.finish == "stop"
        ]
    )


def eligible(rows: Sequence[Row], outcomes: Sequence[str], rule: Rule) -> list[Row]:
    """What a rule chooses among: the candidates (of our shape, where it asks for it); from version
    2 on with a finished step each, so that every rule chooses among the same (a response without
    one has no process reward)."""
    found = candidates(rows, outcomes)
    if rule.ours_only:
        found = [row for row in found if extract_answer(row.text) is not None]
    return found if rule.version == 1 else [row for row in found if finished_steps(row.text)]


def own_score(row: SampleRow, by: RankedBy) -> float:
    """What a response is ranked by without any model: its log-likelihood under the policy (and the
    temperature) that it was sampled from, nats; or its tokens, fewer being more."""
    return math.fsum(row.logprobs) if by == "logprob" else -float(len(row.token_ids))


def select(
    rows: Sequence[Row],
    outcomes: Sequence[str],
    scores: Sequence[float | None] | None,
    rule: Rule,
    *,
    seed: int = 0,
) -> list[Row]:
    """The rows to train on: queries in order of first appearance, samples by index.

    `outcomes` and `scores` (where the rule reads any: `Rule.by_given`) are parallel to `rows`; a
    row that is no candidate needs no score. `seed` is the run's, for `random_k`.

    Raises:
        ValueError: a candidate without a finite score where the rule ranks by score.
    """
    score_of: dict[tuple[str, int], float | None] = {}
    if rule.by_given:
        given = scores if scores is not None else [None] * len(rows)
        for row, score in zip(rows, given, strict=True):
            score_of[(row.query, row.sample_index)] = score
    elif rule.name in SCORED and rule.by != "random":
        score_of = {(row.query, row.sample_index): own_score(row, rule.by) for row in rows}
    groups: dict[str, list[Row]] = {row.query: [] for row in rows}
    for row in eligible(rows, outcomes, rule):
        groups[row.query].append(row)
    kept: list[Row] = []
    for group in groups.values():
        group.sort(key=lambda row: row.sample_index)
        kept += _of_one_query(group, score_of, rule, seed)
    return kept


def _of_one_query(
    group_K: list[Row], score_of: dict[tuple[str, int], float | None], rule: Rule, seed: int
) -> list[Row]:
    if rule.name == "all_correct":
        return group_K
    if rule.name == "random_k" or (rule.name in SCORED and rule.by == "random"):
        drawn = sorted(group_K, key=lambda row: _ticket(seed, row))[: rule.k]
        return sorted(drawn, key=lambda row: row.sample_index)
    scores_K = [_score(score_of, row) for row in group_K]
    if rule.name == "threshold":
        return [row for row, score in zip(group_K, scores_K, strict=True) if score > rule.threshold]
    sign = -1.0 if rule.name == "top_k" else 1.0
    order = sorted(range(len(group_K)), key=lambda i: (sign * scores_K[i], group_K[i].sample_index))
    return [group_K[i] for i in sorted(order[: rule.k])]


def _ticket(seed: int, row: SampleRow) -> str:
    """A lottery ticket: the sample's own seed is unique to policy, query and sample."""
    return sha256_hex(canonical_json(["random_k", seed, row.query, row.sample_index, row.seed]))


def _score(score_of: dict[tuple[str, int], float | None], row: SampleRow) -> float:
    score = score_of[(row.query, row.sample_index)]
    if score is None or not math.isfinite(score):
        raise ValueError(f"query {row.query} sample {row.sample_index} has no score: {score}")
    return score
