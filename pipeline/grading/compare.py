"""Whether two forms state the same: only like structures are compared, each by its own rule.

    numbers, expressions   by value; units as `quantities.same_unit` says; rounding if it is allowed
    based numerals         the same value in the same base
    ratios                 up to a factor; a ratio of two is also the number that it makes
    sequences              item by item; in any order if braces, "or" or ± say so on the gold side
    regions                the same set of reals, however it is written
    matrices               entry by entry
    equations              up to a factor; inequalities up to a positive one
    named values           the name may be left out or added, never be another
    solutions              name by name, in any order; without names in the order of the alphabet

What always holds: where no rule fits, two forms are different. Rounding aside, the result is the
same whichever of the two is the gold answer, but for what `same` says of lists.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Items
from fractions import Fraction
from typing import Any

from pipeline.grading import algebra, regions
from pipeline.grading.forms import (
    Apply,
    Based,
    Equation,
    Expression,
    Form,
    Inequality,
    Interval,
    Matrix,
    Named,
    Number,
    Ratio,
    Region,
    Sequence,
    Solutions,
    Symbol,
    Term,
    Text,
    Unreadable,
    holds,
    minus,
    symbols,
)
from pipeline.grading.quantities import Quantity, conversion, is_rounding, same_quantity, same_unit
from pipeline.grading.units import Unit, read_unit

_DEGREE = read_unit("°")
_RADIAN = read_unit("rad")


def same(answer: Form, gold: Form, *, rounding: bool = True) -> bool:
    """Whether an answer states what the gold answer states.

    rounding: a gold number with decimals is met by an exact form that rounds to it, and an exact
        gold answer by a decimal form of three places or more.

    A gold list without braces is met in its order only, with them in any order, whatever the
    brackets of the answer are.

    Raises:
        Undefined, Failed: when something has no value, or none that can be compared (`algebra`).
    """
    if isinstance(answer, Quantity) and isinstance(gold, Quantity):
        return same_quantity(answer, gold, rounding=rounding)
    if answer == gold:
        return True
    for kind, rule in _EITHER:
        if isinstance(answer, kind) or isinstance(gold, kind):
            return rule(answer, gold, rounding)
    for kind, rule in _BOTH:
        if isinstance(answer, kind) and isinstance(gold, kind):
            return rule(answer, gold, rounding)
    return False


# -- values ------------------------------------------------------------------------------------


def _same_value(answer: Quantity | Expression, gold: Quantity | Expression, rounding: bool) -> bool:
    answer, gold = numeral(answer), numeral(gold)
    if isinstance(answer, Quantity) and isinstance(gold, Quantity):
        return same_quantity(answer, gold, rounding=rounding)
    found, wanted = _term(answer), _term(gold)
    if (turned := _in_radians(found, answer.unit, wanted, gold.unit)) is not None:
        return algebra.identical(*turned)
    if not same_unit(answer.unit, gold.unit):
        return False
    factor = conversion(answer.unit, gold.unit)
    if factor != 1:
        found = _times(found, factor)
    elif rounding and _same_rounded(answer, gold):
        return True
    return algebra.identical(found, wanted)


def numeral(value: Quantity | Expression) -> Quantity | Expression:
    """An expression that is but a numeral, as in "(1.414, 1)", as a quantity."""
    term = value.term if isinstance(value, Expression) else None
    sign = 1
    if isinstance(term, Apply) and term.op == "neg":
        sign, term = -1, term.args[0]
    if not isinstance(term, Number):
        return value
    return Quantity(sign * term.value, term.step, unit=value.unit)


def _term(value: Quantity | Expression) -> Term:
    if isinstance(value, Expression):
        return value.term
    return Number(value.value / 100 if value.percent else value.value)


def _times(term: Term, factor: Fraction | int) -> Term:
    return Apply("*", (term, Number(Fraction(factor))))


def _in_radians(
    answer: Term, answer_unit: Unit | None, gold: Term, gold_unit: Unit | None
) -> tuple[Term, Term] | None:
    """Both angles in radians, if one is in degrees and the other says that it is not: π/6."""
    if answer_unit == _DEGREE and _is_radians(gold, gold_unit):
        return algebra.degrees_to_radians(answer), gold
    if gold_unit == _DEGREE and _is_radians(answer, answer_unit):
        return answer, algebra.degrees_to_radians(gold)
    return None


def _is_radians(term: Term, unit: Unit | None) -> bool:
    return unit == _RADIAN or (unit is None and (holds(term, "π") or _is_arc(term)))


def _is_arc(term: Term) -> bool:
    return isinstance(term, Apply) and term.op.startswith("arc")


def _same_rounded(answer: Quantity | Expression, gold: Quantity | Expression) -> bool:
    """Equality up to rounding, where one of the two is a numeral and the other is not."""
    if isinstance(gold, Quantity):
        if gold.step is None:  # exact: 5 cos(10^-30) is no 5
            return False
        value = algebra.near(_term(answer))
        return value is not None and same_quantity(Quantity(value), Quantity(gold.value, gold.step))
    value = algebra.near(_term(gold))
    return value is not None and isinstance(answer, Quantity) and is_rounding(answer, value)


def _same_based(answer: Based, gold: Based, rounding: bool) -> bool:
    return answer == gold


def _same_ratio(answer: Form, gold: Form, rounding: bool) -> bool:
    if isinstance(answer, Ratio) and isinstance(gold, Ratio):
        if len(answer.parts) != len(gold.parts):
            return False
        pairs = list(zip(answer.parts, gold.parts, strict=True))
        first = next((pair for pair in pairs if not _is_zero(pair[0])), pairs[0])
        return all(
            algebra.identical(Apply("*", (first[0], b)), Apply("*", (first[1], a)))
            for a, b in pairs
        ) and _is_zero(first[0]) == _is_zero(first[1])
    ratio, other = (answer, gold) if isinstance(answer, Ratio) else (gold, answer)
    if not isinstance(ratio, Ratio) or len(ratio.parts) != 2:
        return False
    if not isinstance(other, Quantity | Expression) or other.unit is not None:
        return False
    if isinstance(other, Quantity) and other.percent:
        return False
    return algebra.identical(Apply("/", ratio.parts), _term(other))


def _is_zero(term: Term) -> bool:
    return algebra.identical(term, Number(Fraction(0)))


# -- lists -------------------------------------------------------------------------------------


def _same_sequence(answer: Sequence, gold: Sequence, rounding: bool) -> bool:
    """Brackets that could be an interval's are compared: (1, 2) is not [1, 2]."""
    kinds = {answer.kind, gold.kind}
    if kinds == {"()", "[]"} and len(gold.items) == 2:
        return False
    if not answer.ordered and gold.kind in ("()", "[]"):
        return False
    if answer.kind in ("()", "[]") and not gold.ordered:
        return False
    if kinds == {"{}"}:  # {1, 2, 2} is {1, 2}
        pairs = [[same(a, b, rounding=rounding) for b in gold.items] for a in answer.items]
        return all(map(any, pairs)) and all(map(any, zip(*pairs, strict=True)))
    # A bare list of roots is a set where it is an expression; `list` has its own rule.
    ordered = "()" in kinds or "[]" in kinds
    return same_items(answer.items, gold.items, ordered=ordered, rounding=rounding)


def same_items(
    answer: Items[Form], gold: Items[Form], *, ordered: bool, rounding: bool = True
) -> bool:
    """Whether two lists of forms are the same, item by item or in any order."""
    if len(answer) != len(gold):
        return False
    if ordered:
        return all(same(a, b, rounding=rounding) for a, b in zip(answer, gold, strict=True))
    left = list(gold)
    for item in answer:
        match = next(
            (i for i, other in enumerate(left) if same(item, other, rounding=rounding)), None
        )
        if match is None:
            return False
        del left[match]
    return True


def _same_named(answer: Form, gold: Form, rounding: bool) -> bool:
    if isinstance(answer, Named) and isinstance(gold, Named):
        if answer.name == gold.name:
            return same(answer.value, gold.value, rounding=rounding)
        # "PV = nRT" names nothing; "V = IR" is solved for another letter than "I = V/R".
        first, second = _as_equation(answer), _as_equation(gold)
        if first is None or second is None:
            return False
        if len(answer.name) == len(gold.name) == 1 and not isinstance(second.right, Symbol):
            return False  # but "y = x" is "x = y"
        return _same_equation(first, second, rounding)
    named, other = (answer, gold) if isinstance(answer, Named) else (gold, answer)
    assert isinstance(named, Named)
    if isinstance(other, Equation):
        equation = _as_equation(named)
        return equation is not None and _same_equation(equation, other, rounding)
    if isinstance(other, Solutions | Inequality):
        return False
    if named is answer:
        return same(named.value, other, rounding=rounding)
    return same(other, named.value, rounding=rounding)


def _as_equation(named: Named) -> Equation | None:
    """ "y = 2x + 1" may be compared with "2x - y + 1 = 0"; "x = 5" says more than "2x = 10"."""
    if not isinstance(named.value, Expression) or not symbols(named.value.term):
        return None
    if not named.name.isalpha() or not named.name.isascii() or len(named.name) > 3:
        return Equation(Symbol(named.name), named.value.term)
    return Equation(Apply("*", tuple(map(Symbol, named.name))), named.value.term)


def _same_solutions(answer: Form, gold: Form, rounding: bool) -> bool:
    if isinstance(answer, Solutions) and isinstance(gold, Solutions):
        values = {named.name: named.value for named in gold.values}
        return len(answer.values) == len(values) and all(
            named.name in values and same(named.value, values[named.name], rounding=rounding)
            for named in answer.values
        )
    named, other = (answer, gold) if isinstance(answer, Solutions) else (gold, answer)
    assert isinstance(named, Solutions)
    if not isinstance(other, Sequence) or other.kind not in ("()", ""):
        return False
    in_order = [one.value for one in sorted(named.values, key=lambda one: one.name)]
    if named is gold and in_order != [one.value for one in named.values]:
        return False
    first, second = (in_order, other.items) if named is answer else (other.items, in_order)
    return same_items(first, second, ordered=True, rounding=rounding)


# -- sets, matrices, relations -----------------------------------------------------------------


def _same_region(answer: Form, gold: Form, rounding: bool) -> bool:
    found = [_as_region(form) for form in (answer, gold)]
    if found[0] is None or found[1] is None:
        return False
    if regions.constant(found[0]) and regions.constant(found[1]):
        first, second = regions.normal(found[0]), regions.normal(found[1])
    else:
        first, second = found[0].intervals, found[1].intervals
    return len(first) == len(second) and all(map(_same_interval, first, second))


def _as_region(form: Form) -> Region | None:
    """A region; also "(1, 2)", which is an interval beside one, and a set of points."""
    if isinstance(form, Region):
        return form
    if isinstance(form, Sequence) and form.kind != "":
        items = [
            Expression(_term(i)) if isinstance(i, Quantity) and i.unit is None else i
            for i in form.items
        ]
        if all(isinstance(item, Expression) for item in items):
            try:
                return regions.region(Sequence(form.kind, tuple(items)))
            except Unreadable:
                return None
    return None


def _same_interval(a: Interval, b: Interval) -> bool:
    return (
        (a.low_closed, a.high_closed) == (b.low_closed, b.high_closed)
        and algebra.identical(a.low, b.low)
        and algebra.identical(a.high, b.high)
    )


def _same_matrix(answer: Matrix, gold: Matrix, rounding: bool) -> bool:
    shapes = [[len(row) for row in matrix.rows] for matrix in (answer, gold)]
    return shapes[0] == shapes[1] and all(
        algebra.identical(a, b)
        for row, other in zip(answer.rows, gold.rows, strict=True)
        for a, b in zip(row, other, strict=True)
    )


def _same_equation(answer: Equation, gold: Equation, rounding: bool) -> bool:
    return algebra.proportional(
        minus(answer.left, answer.right), minus(gold.left, gold.right), positive=False
    )


def _same_inequality(answer: Inequality, gold: Inequality, rounding: bool) -> bool:
    if answer.ops != gold.ops:
        return False
    if len(gold.ops) > 1:
        return all(map(algebra.identical, answer.terms, gold.terms))
    return algebra.proportional(minus(*answer.terms), minus(*gold.terms), positive=True)


def _same_text(answer: Text, gold: Text, rounding: bool) -> bool:
    return answer.words == gold.words


_Rules = list[tuple[Any, Callable[[Any, Any, bool], bool]]]
# Forms that one of the two may be in another shape of: a name left out, a ratio as its quotient.
_EITHER: _Rules = [
    (Named, _same_named),
    (Ratio, _same_ratio),
    (Region, _same_region),
    (Solutions, _same_solutions),
]
_BOTH: _Rules = [
    (Quantity | Expression, _same_value),
    (Based, _same_based),
    (Sequence, _same_sequence),
    (Matrix, _same_matrix),
    (Equation, _same_equation),
    (Inequality, _same_inequality),
    (Text, _same_text),
]
