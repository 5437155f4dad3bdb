"""What an answer can be: the structures that a text is read into, and nothing about comparing them.

    Quantity       12 cm, 3/4, 50 %                    (`quantities`)
    Expression     2√3, x^2 + 1, perhaps with a unit    a term
    Based          52_8                                 a numeral in a base
    Ratio          1:2:3
    Sequence       (1, 2)  [1, 2]  1, 2                 ordered
                   {1, 2}  1 or 2  ±3                   in any order
    Region         [2, 5) ∪ (7, ∞)                      a set of reals
    Matrix         rows of terms
    Equation, Inequality                                in several symbols, or not solved for one
    Named          x = 5, 2 ≤ x < 5                     a form and the name of what it is
    Solutions      x = 2, y = 3                         several names
    Text           red                                  words

A `Term` is an expression's tree. Symbols keep their case; numbers are exact fractions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

from pipeline.grading.quantities import Quantity
from pipeline.grading.units import Unit


class Unreadable(Exception):
    """A text that is not one mathematical statement, or has no value (1/0)."""


@dataclass(frozen=True)
class Number:
    """An exact rational number. step: the weight of the last decimal it was written with."""

    value: Fraction
    step: Fraction | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Constant:
    """name: "π", "e", "i" or "∞"."""

    name: str


@dataclass(frozen=True)
class Symbol:
    """A variable: "x", "x_1", "Delta", "vec v"."""

    name: str


@dataclass(frozen=True)
class Apply:
    """An operation or function on terms.

    op: "+", "*", "/", "^", "neg", "±" (of one or two terms), "∓", "!", "abs", "deg" (degrees),
        "root" (of, degree), "log" (of, base), or the name of a function of `arithmetic.FUNCTIONS`.
    """

    op: str
    args: tuple[Term, ...]


Term = Number | Constant | Symbol | Apply
TERMS = (Number, Constant, Symbol, Apply)


@dataclass(frozen=True)
class Expression:
    term: Term
    unit: Unit | None = None


@dataclass(frozen=True)
class Based:
    """A natural number written in a base."""

    value: int
    base: int


@dataclass(frozen=True)
class Ratio:
    """Two terms or more; equal up to a factor."""

    parts: tuple[Term, ...]


@dataclass(frozen=True)
class Sequence:
    """kind: how it was written: in brackets, bare ("1, 2"), or with "or" or ± between the items."""

    kind: Literal["()", "[]", "", "{}", "or"]
    items: tuple[Form, ...]

    @property
    def ordered(self) -> bool:
        return self.kind not in ("{}", "or")


@dataclass(frozen=True)
class Interval:
    """A connected set of reals; a point is closed at both ends and begins where it ends."""

    low: Term
    high: Term
    low_closed: bool
    high_closed: bool


@dataclass(frozen=True)
class Region:
    """A union of intervals, in the order in which they were written."""

    intervals: tuple[Interval, ...]


@dataclass(frozen=True)
class Matrix:
    rows: tuple[tuple[Term, ...], ...]


@dataclass(frozen=True)
class Equation:
    left: Term
    right: Term


@dataclass(frozen=True)
class Inequality:
    """terms[0] op terms[1] op ...; every op is "<" or "<=" (one with ">" is turned round)."""

    terms: tuple[Term, ...]
    ops: tuple[str, ...]


@dataclass(frozen=True)
class Named:
    name: str
    value: Form


@dataclass(frozen=True)
class Solutions:
    """Different names and their values, as written."""

    values: tuple[Named, ...]


@dataclass(frozen=True)
class Text:
    words: str


Form = (
    Quantity
    | Expression
    | Based
    | Ratio
    | Sequence
    | Region
    | Matrix
    | Equation
    | Inequality
    | Named
    | Solutions
    | Text
)

INFINITY = Constant("∞")
MINUS_INFINITY = Apply("neg", (INFINITY,))
REALS = Region((Interval(MINUS_INFINITY, INFINITY, False, False),))


def nodes(term: Term) -> Iterator[Term]:
    """The term and all terms in it."""
    yield term
    if isinstance(term, Apply):
        for arg in term.args:
            yield from nodes(arg)


def symbols(term: Term) -> frozenset[str]:
    """The names of the variables of a term."""
    return frozenset(node.name for node in nodes(term) if isinstance(node, Symbol))


def holds(term: Term, constant: str) -> bool:
    """Whether a constant occurs in a term."""
    return any(isinstance(node, Constant) and node.name == constant for node in nodes(term))


def minus(left: Term, right: Term) -> Term:
    return Apply("+", (left, Apply("neg", (right,))))


def terms_of(form: Form) -> Iterator[Term | Quantity]:
    """Every term and quantity that a form holds."""
    match form:
        case Quantity():
            yield form
        case Expression():
            yield form.term
        case Ratio():
            yield from form.parts
        case Region():
            for one in form.intervals:
                yield from (one.low, one.high)
        case Matrix():
            for row in form.rows:
                yield from row
        case Equation():
            yield from (form.left, form.right)
        case Inequality():
            yield from form.terms
        case Named():
            yield from terms_of(form.value)
        case Sequence(items=items) | Solutions(values=items):
            for item in items:
                yield from terms_of(item)
