"""Counts of a selection: outcomes of the samples, and what the choice was among."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from pipeline.selection.rules import Row, candidates


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


def coverage(rows: Sequence[Row], outcomes: Sequence[str], kept: Sequence[Row]) -> Coverage:
    """What became of the samples of a shard. (Of an unlabelled query without a pseudo-label they
    are neither correct nor wrong.)"""
    seen = Counter(outcomes)
    counts = {name: seen[name] for name in ("correct", "wrong", "unparsed", "timeout", "leaning")}
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
