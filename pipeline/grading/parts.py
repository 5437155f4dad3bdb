"""What the parts that the grammar reads make together: terms, tuples, relations, named values.

What always holds: a part that is no term stands in no sum or product; both signs of a ± are kept.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from fractions import Fraction

from pipeline.grading import regions
from pipeline.grading.forms import (
    TERMS,
    Apply,
    Constant,
    Equation,
    Expression,
    Form,
    Inequality,
    Matrix,
    Named,
    Number,
    Sequence,
    Solutions,
    Symbol,
    Term,
    Unreadable,
    holds,
    nodes,
    symbols,
)
from pipeline.grading.quantities import Quantity

# What a part of the grammar gives: a term, or a form that is none.
Part = Term | Form


def as_term(part: Part) -> Term:
    if not isinstance(part, TERMS):
        raise Unreadable(f"a term is expected, not {type(part).__name__}")
    return part


def as_form(part: Part) -> Form:
    """A term as an expression; ± makes two of one."""
    if not isinstance(part, TERMS):
        return part
    if has_double_sign(part):
        return Sequence("or", (Expression(_signed(part, 1)), Expression(_signed(part, -1))))
    return Expression(part)


def has_double_sign(term: Term | Quantity) -> bool:
    return not isinstance(term, Quantity) and any(
        isinstance(node, Apply) and node.op in ("±", "∓") for node in nodes(term)
    )


def _signed(term: Term, upper: int) -> Term:
    """The term with the upper or the lower of all its double signs."""
    if not isinstance(term, Apply):
        return term
    args = tuple(_signed(arg, upper) for arg in term.args)
    if term.op not in ("±", "∓"):
        return Apply(term.op, args)
    negative = (upper > 0) == (term.op == "∓")
    last = Apply("neg", args[-1:]) if negative else args[-1]
    return last if len(args) == 1 else Apply("+", (args[0], last))


def appended(op: str, left: Term, right: Term) -> Term:
    """A sum or product with one more: a long one is wide, not deep."""
    if isinstance(left, Apply) and left.op == op:
        return Apply(op, (*left.args, right))
    return Apply(op, (left, right))


def number(text: str) -> Number:
    if len(text) > 400:
        raise Unreadable("too many digits")
    decimals = len(text.partition(".")[2])
    step = Fraction(1, 10**decimals) if decimals else None
    return Number(Fraction(text.removesuffix(".")), step)


def proper(over: str, under: str) -> Fraction:
    if not (over.isdigit() and under.isdigit() and int(over) < int(under)):
        raise Unreadable("a mixed number whose fraction is none, or more than one")
    return Fraction(int(over), int(under))


def in_degrees(term: Term) -> bool:
    return any(isinstance(node, Apply) and node.op == "deg" for node in nodes(term))


def is_vector(term: Term) -> bool:
    return any(
        isinstance(node, Symbol) and node.name.startswith(("vec ", "overrightarrow ", "hat "))
        for node in nodes(term)
    )


def expression(form: Form) -> Term:
    if not isinstance(form, Expression):
        raise Unreadable("a term is expected")
    return form.term


def sequence(kind: str, items: Items[Form]) -> Part:
    """A tuple or set; rows in brackets are a matrix."""
    if kind == "[]" and all(isinstance(item, Sequence) and item.kind == "[]" for item in items):
        rows = [tuple(map(expression, item.items)) for item in items if isinstance(item, Sequence)]
        if len({len(row) for row in rows}) == 1:
            return Matrix(tuple(rows))
    flat: list[Form] = []
    for item in items:  # {1 ± √5, -2} has three elements
        flat += (
            item.items
            if kind == "{}" and isinstance(item, Sequence) and item.kind == "or"
            else [item]
        )
    return Sequence("{}" if kind == "{}" else "[]" if kind == "[]" else "()", tuple(flat))


def related(parts: list[Part], ops: list[str]) -> Form:
    """An equation, an inequality, or the name of what is on the other side of it."""
    if ops == ["∈"]:
        if not isinstance(parts[0], Symbol):
            raise Unreadable("what is in the set has no name")
        right = parts[1]
        if isinstance(right, Symbol):
            return Named(parts[0].name, Expression(right))
        inside = (
            right if isinstance(right, Sequence) and right.kind == "{}" else regions.region(right)
        )
        return Named(parts[0].name, inside)
    if ops == ["="]:
        return _equation(parts[0], parts[1])
    terms = tuple(map(as_term, parts))
    if ops == ["!="]:
        for name, value in (terms, terms[::-1]):
            if isinstance(name, Symbol) and not symbols(value):
                return Named(name.name, regions.all_but(value))
        raise Unreadable("an inequality of no symbol")
    if all(op in (">", ">=") for op in ops):
        terms, ops = terms[::-1], [op.replace(">", "<") for op in reversed(ops)]
    if not all(op in ("<", "<=") for op in ops) or any(holds(term, "i") for term in terms):
        raise Unreadable("relations that do not go together")
    return regions.solved(Inequality(terms, tuple(ops)))


def _equation(left: Part, right: Part) -> Form:
    if isinstance(left, Sequence) and isinstance(right, Sequence):
        return _coordinates(left, right)
    for name, value in ((left, right), (right, left)):
        if isinstance(name, Symbol):
            if not isinstance(value, TERMS):
                return Named(name.name, value)
            if name.name not in symbols(value):
                return Named(name.name, as_form(value))
    # e and i are letters too, on the left of an equation.
    if isinstance(left, Constant) and left.name in "ei":
        return Named(left.name, as_form(right))
    return Equation(as_term(left), as_term(right))


def _coordinates(left: Sequence, right: Sequence) -> Solutions:
    """(x, y) = (2, 3)"""
    names = [item.term for item in left.items if isinstance(item, Expression)]
    symbols_ = [name.name for name in names if isinstance(name, Symbol)]
    if not len(set(symbols_)) == len(left.items) == len(right.items):
        raise Unreadable("no names on the left")
    return Solutions(tuple(map(Named, symbols_, right.items)))
