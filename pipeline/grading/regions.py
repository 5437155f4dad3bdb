"""Sets of reals: intervals, their unions, and what an inequality in one variable says.

What always holds: two regions with constant ends are the same exactly when their normal forms are,
interval by interval; (1, 2] ∪ (2, 3] is (1, 3], and x ≠ 2 is all but a point.
"""

from __future__ import annotations

import functools

from pipeline.grading import algebra
from pipeline.grading.forms import (
    INFINITY,
    MINUS_INFINITY,
    TERMS,
    Expression,
    Form,
    Inequality,
    Interval,
    Named,
    Region,
    Sequence,
    Symbol,
    Term,
    Unreadable,
    symbols,
)


def interval(low: Term, high: Term, low_closed: bool, high_closed: bool) -> Region:
    return Region((Interval(low, high, low_closed, high_closed),))


def region(part: Term | Form) -> Region:
    """What a part of the grammar is as a set of reals: "(1, 2)" an interval, "{1, 2}" two points.

    Raises:
        Unreadable: when it is none.
    """
    if isinstance(part, Region):
        return part
    if isinstance(part, TERMS) or not isinstance(part, Sequence):
        raise Unreadable("not a set of numbers")
    ends = [item.term for item in part.items if isinstance(item, Expression) and item.unit is None]
    if len(ends) != len(part.items):
        raise Unreadable("not a set of numbers")
    if not part.ordered:
        return Region(tuple(Interval(end, end, True, True) for end in ends))
    if len(ends) != 2 or part.kind == "":
        raise Unreadable("not an interval")
    closed = part.kind == "[]"
    return interval(ends[0], ends[1], closed, closed)


def all_but(value: Term) -> Region:
    below = Interval(MINUS_INFINITY, value, False, False)
    return Region((below, Interval(value, INFINITY, False, False)))


def union(left: Region, right: Region) -> Region:
    return Region(left.intervals + right.intervals)


def intersection(left: Region, right: Region) -> Region:
    return Region(tuple(_meet(a, b) for a in left.intervals for b in right.intervals))


def difference(left: Region, right: Region) -> Region:
    for taken in normal(right):
        below = Interval(MINUS_INFINITY, taken.low, False, not taken.low_closed)
        above = Interval(taken.high, INFINITY, not taken.high_closed, False)
        left = intersection(left, Region((below, above)))
    return Region(normal(left))


def _meet(a: Interval, b: Interval) -> Interval:
    by_low, by_high = algebra.order(a.low, b.low), algebra.order(a.high, b.high)
    low = a.low if by_low >= 0 else b.low
    high = a.high if by_high <= 0 else b.high
    low_closed = (a.low_closed or by_low < 0) and (b.low_closed or by_low > 0)
    high_closed = (a.high_closed or by_high > 0) and (b.high_closed or by_high < 0)
    return Interval(low, high, low_closed, high_closed)


def constant(found: Region) -> bool:
    """Whether no end holds a variable."""
    return not any(symbols(end) for one in found.intervals for end in (one.low, one.high))


def normal(found: Region) -> tuple[Interval, ...]:
    """The intervals from left to right, none empty, none touching the next.

    Raises:
        Unreadable: when an end is a variable.
    """
    if not constant(found):
        raise Unreadable("ends that cannot be ordered")
    filled = [one for one in found.intervals if not _is_empty(one)]
    filled.sort(key=functools.cmp_to_key(lambda a, b: algebra.order(a.low, b.low)))
    merged: list[Interval] = []
    for one in filled:
        if merged and _touch(merged[-1], one):
            merged[-1] = _joined(merged[-1], one)
        else:
            merged.append(one)
    return tuple(merged)


def _is_empty(one: Interval) -> bool:
    by_ends = algebra.order(one.low, one.high)
    return by_ends > 0 or (by_ends == 0 and not (one.low_closed and one.high_closed))


def _touch(left: Interval, right: Interval) -> bool:
    gap = algebra.order(right.low, left.high)
    return gap < 0 or (gap == 0 and (left.high_closed or right.low_closed))


def _joined(left: Interval, right: Interval) -> Interval:
    """The union of two that touch; `left` begins no later."""
    low_closed = left.low_closed or (right.low_closed and algebra.order(left.low, right.low) == 0)
    by_high = algebra.order(left.high, right.high)
    high = left.high if by_high >= 0 else right.high
    high_closed = (left.high_closed and by_high >= 0) or (right.high_closed and by_high <= 0)
    return Interval(left.low, high, low_closed, high_closed)


def solved(said: Inequality) -> Named | Inequality:
    """The region of a variable that stands alone: x < 3, 2 ≤ x < 5; else the inequality itself."""
    terms, ops = said.terms, said.ops
    if len(terms) == 2:
        for index, name in enumerate(terms):
            if isinstance(name, Symbol) and not symbols(terms[1 - index]):
                closed, end = ops[0] == "<=", terms[1 - index]
                if index == 0:
                    return Named(name.name, interval(MINUS_INFINITY, end, False, closed))
                return Named(name.name, interval(end, INFINITY, closed, False))
    if len(terms) == 3 and isinstance(terms[1], Symbol):
        name = terms[1]
        if name.name not in symbols(terms[0]) | symbols(terms[2]):
            low, high = (op == "<=" for op in ops)
            return Named(name.name, interval(terms[0], terms[2], low, high))
    return said


def condition(variable: str, items: list[Form]) -> Region:
    """The region of a variable that the condition of a set says: x > 3 in {x | x > 3}.

    Raises:
        Unreadable: it says none, or there are several conditions.
    """
    said = items[0] if len(items) == 1 else None
    if isinstance(said, Named) and said.name == variable:
        said = said.value
    if isinstance(said, Region):
        return said
    raise Unreadable("a set whose condition is no region")
