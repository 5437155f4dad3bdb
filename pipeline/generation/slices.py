"""Which queries an iteration samples: subsets, seeded orders, slices of the pool."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from functools import lru_cache

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


def slice_of(
    pool: Sequence[str], iteration: int, interval: float, seed: int, *, reshuffle: bool = True
) -> list[str]:
    """The queries of one iteration: the next share of the pool's order, pass after pass.

    Slices follow each other without gap, and no query comes twice in one. A pass visits every query
    once; with `reshuffle` the next one does in a new order, without, in the same. After any number
    of iterations the queries' counts differ by one at most.
    """
    step = Fraction(interval).limit_denominator(1_000_000) * len(set(pool))
    start, end = math.floor(iteration * step), math.floor((iteration + 1) * step)
    if start == end:
        return []
    passes = -(-end // len(set(pool)))
    if not reshuffle:
        return (shuffled(pool, seed, "slices") * passes)[start:end]
    return list(_passes(tuple(pool), passes, step, seed)[start:end])


@lru_cache(maxsize=4)
def _passes(pool: tuple[str, ...], passes: int, step: Fraction, seed: int) -> tuple[str, ...]:
    """So many passes over the pool, one after the other."""
    order: list[str] = []
    for number in range(passes):
        name = f"slices/{number}" if number else "slices"
        order += _next_pass(order, shuffled(pool, seed, name), step)
    return tuple(order)


def _next_pass(before: Sequence[str], order: list[str], step: Fraction) -> list[str]:
    """A pass in its own order, but that the slice which it shares with the pass before takes
    nothing twice: what that slice holds already comes after it."""
    begin = len(before)
    number = int(begin // step)  # of the slice that the pass begins in
    first, last = math.floor(number * step), math.floor((number + 1) * step)
    held = set(before[first:begin])
    fresh = [item for item in order if item not in held][: last - begin]
    taken = set(fresh)
    return fresh + [item for item in order if item not in taken]
