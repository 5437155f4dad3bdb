"""H: which samples of a query are trained on.

Only a sample whose answer is right and that ended by itself is ever kept; one that was cut by the
length limit never is. Equal texts are one response: the one with the lowest sample index stands
for all. What is kept is a function of the rows alone: shuffling them changes nothing.

Ties in the score go to the lower sample index. A query with fewer than k candidates gives what it
has; one with none drops out and shows in the coverage.

Axes: K samples of a query.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Protocol, TypeVar

from pipeline.canonical import canonical_json, sha256_hex

RuleName = Literal["all_correct", "random_k", "threshold", "top_k"]
SCORED: tuple[RuleName, ...] = ("threshold", "top_k")


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


Row = TypeVar("Row", bound=SampleRow)


@dataclass(frozen=True)
class Rule:
    """One H and its parameters; `k` counts responses of a query, `threshold` is a probability."""

    name: RuleName = "all_correct"
    k: int = 2
    threshold: float = 0.5

    @property
    def identity(self) -> dict[str, object]:
        """What of the rule decides its result: parameters it does not read are left out."""
        used: dict[str, object] = {"name": self.name}
        if self.name in ("random_k", "top_k"):
            used["k"] = self.k
        if self.name == "threshold":
            used["threshold"] = self.threshold
        return used


@dataclass(frozen=True)
class Coverage:
    """Counts over the samples of one shard; counts of shards add up.

    leaning: right warm-up chains that speak of the answer they were given, so never kept.
    """

    queries: int = 0
    queries_correct: int = 0
    queries_kept: int = 0
    samples: int = 0
    correct: int = 0
    wrong: int = 0
    unparsed: int = 0
    timeout: int = 0
    leaning: int = 0
    cut: int = 0
    candidates: int = 0
    kept: int = 0
    tokens: int = 0
    tokens_kept: int = 0

    def __add__(self, other: Coverage) -> Coverage:
        return Coverage(
            *(getattr(self, item.name) + getattr(other, item.name) for item in fields(self))
        )

    def to_dict(self) -> dict[str, int]:
        """Plain form for an event."""
        return asdict(self)


def dedup(rows: Sequence[Row]) -> list[Row]:
    """One row for each (query, text), the one with the lowest sample index, in order of rows."""
    best: dict[tuple[str, str], Row] = {}
    for row in rows:
        key = (row.query, row.text)
        if key not in best or row.sample_index < best[key].sample_index:
            best[key] = row
    return [row for row in rows if best[(row.query, row.text)] is row]


def candidates(rows: Sequence[Row], outcomes: Sequence[str]) -> list[Row]:
    """Distinct right responses that ended by themselves.

    Cut responses go before equal texts are merged, or a cut one could stand for a whole one.
    """
    return dedup(
        [
            row
            for row, outcome in zip(rows, outcomes, strict=True)
            if outcome == "correct" and row.finish == "stop"
        ]
    )


def select(
    rows: Sequence[Row],
    outcomes: Sequence[str],
    scores: Sequence[float | None] | None,
    rule: Rule,
    *,
    seed: int = 0,
) -> list[Row]:
    """The rows to train on: queries in order of first appearance, samples by index.

    `outcomes` and `scores` are parallel to `rows`; a row that is no candidate needs no score.
    `seed` is the run's, for `random_k`.

    Raises:
        ValueError: a candidate without a finite score where the rule ranks by score.
    """
    score_of: dict[tuple[str, int], float | None] = {}
    if rule.name in SCORED:
        given = scores if scores is not None else [None] * len(rows)
        for row, score in zip(rows, given, strict=True):
            score_of[(row.query, row.sample_index)] = score
    groups: dict[str, list[Row]] = {row.query: [] for row in rows}
    for row in candidates(rows, outcomes):
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
    if rule.name == "random_k":
        drawn = sorted(group_K, key=lambda row: _ticket(seed, row))[: rule.k]
        return sorted(drawn, key=lambda row: row.sample_index)
    scores_K = [_score(score_of, row) for row in group_K]
    if rule.name == "threshold":
        return [row for row, score in zip(group_K, scores_K, strict=True) if score > rule.threshold]
    order = sorted(range(len(group_K)), key=lambda i: (-scores_K[i], group_K[i].sample_index))
    return [group_K[i] for i in sorted(order[: rule.k])]


def _ticket(seed: int, row: SampleRow) -> str:
    """A lottery ticket: the sample's own seed is unique to policy, query and sample."""
    return sha256_hex(canonical_json(["random_k", seed, row.query, row.sample_index, row.seed]))


def _score(score_of: dict[tuple[str, int], float | None], row: SampleRow) -> float:
    score = score_of[(row.query, row.sample_index)]
    if score is None or not math.isfinite(score):
        raise ValueError(f"query {row.query} sample {row.sample_index} has no score: {score}")
    return score


def coverage(rows: Sequence[Row], outcomes: Sequence[str], kept: Sequence[Row]) -> Coverage:
    """What became of the samples of a shard."""
    counts = dict.fromkeys(("correct", "wrong", "unparsed", "timeout", "leaning"), 0)
    for outcome in outcomes:
        counts[outcome] += 1
    right = {row.query for row, outcome in zip(rows, outcomes, strict=True) if outcome == "correct"}
    return Coverage(
        queries=len({row.query for row in rows}),
        queries_correct=len(right),
        queries_kept=len({row.query for row in kept}),
        samples=len(rows),
        cut=sum(row.finish == "length" for row in rows),
        candidates=len(candidates(rows, outcomes)),
        kept=len(kept),
        tokens=sum(len(row.token_ids) for row in rows),
        tokens_kept=sum(len(row.token_ids) for row in kept),
        **counts,
    )


def choice_report(
    chosen_from: Sequence[Row], kept: Sequence[Row], steps: Mapping[tuple[str, int], int]
) -> dict[str, Any]:
    """Of kept and of dropped responses: how many, and sums of their tokens and steps.

    chosen_from: the candidates that could be kept; steps: of each, by query and sample index.
    """
    places = {(row.query, row.sample_index) for row in kept}
    report = {}
    for name, wanted in (("kept", True), ("dropped", False)):
        chosen = [row for row in chosen_from if ((row.query, row.sample_index) in places) == wanted]
        report[name] = {
            "responses": len(chosen),
            "tokens": sum(len(row.token_ids) for row in chosen),
            "steps": sum(steps[row.query, row.sample_index] for row in chosen),
        }
    return report


def choice_totals(choices: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The reports of some shards as one: counts, mean tokens and steps, and how many responses had
    no score, by reason; {} where nothing was chosen."""
    sums: dict[str, Counter[str]] = {"kept": Counter(), "dropped": Counter()}
    excluded: Counter[str] = Counter()
    seen = False
    for choice in choices:
        excluded.update(choice.get("excluded", {}))
        for name in sums.keys() & choice.keys():
            sums[name].update(choice[name])
            seen = True
    if not seen:
        return {}
    found: dict[str, Any] = {"excluded": dict(sorted(excluded.items()))}
    for name, counts in sums.items():
        n = counts["responses"]
        found[name] = {"responses": n} | {
            unit: counts[unit] / n if n else None for unit in ("tokens", "steps")
        }
    return found
