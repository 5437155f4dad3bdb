"""Which queries an iteration samples: subsets, seeded orders, slices of the pool."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from fractions import Fraction

from pipeline.hashing import canonical_json, sha256_hex
from pipeline.query import Query


def shuffled(hashes: Iterable[str], seed: int, purpose: str) -> list[str]:
    """A seeded order of the distinct hashes that does not depend on the order they came in."""
    tickets = {item: sha256_hex(canonical_json([purpose, seed, item])) for item in hashes}
    return sorted(tickets, key=lambda item: tickets[item])


def subset(queries: Sequence[Query], limit: int | None) -> list[Query]:
    """The first `limit` queries of a shuffle that no seed changes, distinct by content.

    Runs that differ in their seed thus draw from, and are evaluated on, the same queries.
    """
    by_hash: dict[str, Query] = {}
    for query in queries:
        by_hash.setdefault(query.content_hash, query)
    order = shuffled(by_hash, 0, "subset")
    return [by_hash[item] for item in order[:limit]]


def labelled(queries: Iterable[Query]) -> list[Query]:
    """Those whose answer may be used."""
    return [query for query in queries if query.answer is not None and not query.unlabelled]


def slice_of(pool: Sequence[str], iteration: int, interval: float, seed: int) -> list[str]:
    """The queries of one iteration: the next share of a fixed order, round and round.

    Slices follow each other without gap, and no query comes twice in one. After any number of
    iterations the queries' counts differ by one at most.
    """
    order = shuffled(pool, seed, "slices")
    step = Fraction(interval).limit_denominator(1_000_000) * len(order)
    start, end = math.floor(iteration * step), math.floor((iteration + 1) * step)
    return [order[position % len(order)] for position in range(start, end)]
