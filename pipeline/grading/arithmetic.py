"""The exact value of a term whose value is rational, in bounded time. Nothing here is a float.

What always holds: a value is exact, or the term is `Inexact` (a root, π, a sine: `algebra` compares
those), or it has no value (`Undefined`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from fractions import Fraction

from pipeline.grading.forms import Apply, Constant, Number, Symbol, Term, symbols

# No power or factorial is multiplied out beyond so many bits.
MAX_BITS = 4_000_000
MAX_FACTORIAL = 20_000

# Every function that can be applied, and how many arguments it takes.
FUNCTIONS: dict[str, tuple[int, ...]] = dict.fromkeys(
    ["sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "arccot", "sinh",
     "cosh", "tanh", "ln", "exp", "floor", "ceil"], (1,)
) | {"binom": (2,)} | dict.fromkeys(["max", "min", "gcd", "lcm"], (2, 3, 4, 5, 6))  # fmt: skip


class Inexact(Exception):
    """The value is not rational, or too large to be multiplied out."""


class Undefined(Exception):
    """There is no value: a division by zero, an even root of a negative number."""


def exact(term: Term, values: Mapping[str, Fraction] | None = None) -> Fraction:
    """The value of a term.

    Args:
        values: of its symbols.

    Raises:
        Inexact: when it is not known to be rational.
        Undefined: when there is none.
    """
    if isinstance(term, Number):
        return term.value
    if isinstance(term, Symbol):
        if values is None or term.name not in values:
            raise Inexact
        return values[term.name]
    if isinstance(term, Constant) or term.op not in _EXACT:
        raise Inexact
    return _EXACT[term.op](*(exact(arg, values) for arg in term.args))


def is_rational_function(term: Term) -> bool:
    """Whether a term is built of its symbols by +, -, *, / and whole powers alone."""
    match term:
        case Apply("+" | "neg" | "*" | "/", args):
            return all(map(is_rational_function, args))
        case Apply("^", (base, exponent)):
            return is_rational_function(base) and is_whole(exponent)
        case Apply():
            return not symbols(term)
    return True


def is_whole(exponent: Term) -> bool:
    try:
        value = rational(exponent)
    except Undefined:
        return False
    return value is not None and value.denominator == 1


def rational(term: Term) -> Fraction | None:
    """The value of a term without symbols; None when it is not known to be rational.

    Raises:
        Undefined: when there is none.
    """
    try:
        return exact(term)
    except Inexact:
        return None


def _product(*values: Fraction) -> Fraction:
    result = Fraction(1)
    for value in values:
        if _bits(result) + _bits(value) > MAX_BITS:
            raise Inexact
        result *= value
    return result


def _bits(value: Fraction) -> int:
    return max(value.numerator.bit_length(), value.denominator.bit_length())


def _quotient(over: Fraction, under: Fraction) -> Fraction:
    if under == 0:
        raise Undefined
    return _product(over, 1 / under)


def _raised(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1:
        return _raised(root(base, exponent.denominator), Fraction(exponent.numerator))
    if base == 0 and exponent <= 0:
        raise Undefined
    if base in (0, 1):
        return base
    if base == -1:
        return Fraction(-1 if exponent.numerator % 2 else 1)
    if _bits(base) * abs(exponent) > MAX_BITS:
        raise Inexact
    return base ** int(exponent)


def root(value: Fraction, degree: int | Fraction) -> Fraction:
    """The real root, if it is rational.

    Raises:
        Inexact: when it is not.
        Undefined: when it is not real.
    """
    if degree != int(degree) or degree == 0 or degree > 64:
        raise Inexact
    if degree < 0:
        return _quotient(Fraction(1), root(value, -degree))
    if value < 0:
        if degree % 2 == 0:
            raise Inexact
        return -root(-value, degree)
    return Fraction(
        _whole_root(value.numerator, int(degree)), _whole_root(value.denominator, int(degree))
    )


def _whole_root(value: int, degree: int) -> int:
    """By bisection: there is no float that is exact enough."""
    low, high = 0, 1 << (value.bit_length() // degree + 1)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if middle**degree <= value else (low, middle - 1)
    if low**degree != value:
        raise Inexact
    return low


def _factorial(value: Fraction) -> Fraction:
    if value.denominator != 1 or value < 0:
        raise Undefined
    if value > MAX_FACTORIAL:
        raise Inexact
    return Fraction(math.factorial(int(value)))


def _binomial(n: Fraction, k: Fraction) -> Fraction:
    if n.denominator != 1 or k.denominator != 1 or n < 0 or k < 0:
        raise Undefined
    if n > MAX_FACTORIAL:
        raise Inexact
    return Fraction(math.comb(int(n), int(k)))


def _of_whole(function: Callable[..., int]) -> Callable[..., Fraction]:
    def applied(*values: Fraction) -> Fraction:
        if any(value.denominator != 1 for value in values):
            raise Undefined
        return Fraction(function(*map(int, values)))

    return applied


_EXACT: dict[str, Callable[..., Fraction]] = {
    "+": lambda *values: sum(values, Fraction(0)),
    "neg": lambda value: -value,
    "*": _product,
    "/": _quotient,
    "^": _raised,
    "root": root,
    "!": _factorial,
    "abs": abs,
    "deg": lambda value: value,
    "binom": _binomial,
    "floor": lambda value: Fraction(math.floor(value)),
    "ceil": lambda value: Fraction(math.ceil(value)),
    "max": max,
    "min": min,
    "gcd": _of_whole(math.gcd),
    "lcm": _of_whole(math.lcm),
}
