"""From graded shards to the numbers of an evaluation, as they stand in the ledger.

A query that could not be sampled (a bad one) has no rows and is left out of the count: `n` says how
many were measured. Shares are between 0 and 1.

Axes: Q queries, K samples of a query.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pipeline.metrics.accuracy import Summary, image_groups, summarise
from pipeline.metrics.intervals import as_json
from pipeline.metrics.pass_at_k import pass_at_k_mean, pass_at_k_Q
from pipeline.query import Query
from pipeline.records import Grade


def doubling(k: int) -> list[int]:
    """1, 2, 4, ... below k, and k."""
    return [n for n in (1 << bit for bit in range(16)) if n < k] + [k]


def outcomes_by_query(rows: Sequence[Grade]) -> dict[str, list[str]]:
    """Outcomes of each query in the order of its sample indices."""
    ordered = sorted(rows, key=lambda row: row.sample_index)
    found: dict[str, list[str]] = {}
    for row in ordered:
        found.setdefault(row.query, []).append(row.outcome)
    return found


def measure_greedy(
    queries_Q: Sequence[Query], rows: Sequence[Grade], coverage: Mapping[str, int]
) -> dict[str, Any]:
    """Greedy accuracy over all queries and by family, with what it must be read against."""
    found = outcomes_by_query(rows)
    there_Q = [query for query in queries_Q if query.content_hash in found]
    summaries = summarise(there_Q, [found[q.content_hash][0] for q in there_Q], seed=0)
    families = {name: _greedy(one) for name, one in summaries.items() if name != "all"}
    cut = coverage["cut"] / max(1, coverage["samples"])
    return _greedy(summaries["all"]) | {"cut": cut, "families": families}


def _greedy(summary: Summary) -> dict[str, Any]:
    return {
        "greedy": summary.greedy.value,
        "n": summary.greedy.n,
        "ci95": list(summary.greedy.ci95),
        "unparsed": summary.unparsed.value,
        "timeouts": summary.timeouts,
        "chance": summary.chance,
        "majority": summary.majority,
    }


def measure_sampled(
    queries_Q: Sequence[Query],
    rows: Sequence[Grade],
    coverage: Mapping[str, int],
    samples: int,
    truncated: Collection[tuple[str, int]] = frozenset(),
) -> dict[str, Any]:
    """Pass@k for k = 1, 2, 4, ... and K (unbiased, bootstrapped by image), and K's by family.

    truncated: the responses that the length limit ended, by query and sample index: correct in no
    Pass@k, whatever their unfinished answer reads like, since none can be selected.
    """
    correct: dict[str, list[bool]] = {}
    for row in sorted(rows, key=lambda row: row.sample_index):
        ended = (row.query, row.sample_index) not in truncated
        correct.setdefault(row.query, []).append(ended and row.outcome == "correct")
    there_Q = [query for query in queries_Q if query.content_hash in correct]
    correct_Q_K = [correct[query.content_hash] for query in there_Q]
    groups_Q = image_groups(there_Q)
    ks = doubling(samples)
    passes = {str(k): pass_at_k_mean(correct_Q_K, groups_Q, k, seed=0) for k in ks}
    return {
        "n": len(there_Q),
        "samples": samples,
        "pass_at": as_json(passes),
        "families": family_means(there_Q, pass_at_k_Q(correct_Q_K, samples).tolist()),
        "cut": coverage["cut"] / max(1, coverage["samples"]),
        "unparsed": coverage["unparsed"] / max(1, coverage["samples"]),
        "timeouts": coverage["timeout"],
    }


def family_means(queries_Q: Sequence[Query], values_Q: Sequence[float]) -> dict[str, float]:
    """The mean of a number over the queries of each family, families sorted."""
    families: dict[str, list[float]] = {}
    for query, value in zip(queries_Q, values_Q, strict=True):
        families.setdefault(query.source, []).append(value)
    return {name: sum(part) / len(part) for name, part in sorted(families.items())}
