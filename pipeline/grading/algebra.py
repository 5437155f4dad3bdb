"""Whether two terms are equal wherever both have a value: all of this project's mpmath.

    no symbols         exact fractions if both are rational, else two values to hundreds of digits
    symbols            the same at points of every size and sign, of reals only while neither
                       term holds i

What always holds: nothing is decided by a float. The number of digits follows from the largest and
the smallest value met on the way, so that no difference vanishes (1 - 2^-60 is not 1 - 2^-61);
rational functions are compared exactly, at points where two different ones agree with a
probability of about 1e-20. What mpmath raises is caught here, where it is called, and becomes
`Failed`. A term may still take for ever: only a process that can be killed may compare.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import lru_cache
from typing import Any

from pipeline.grading import arithmetic
from pipeline.grading.arithmetic import Inexact, Undefined
from pipeline.grading.forms import (
    INFINITY,
    MINUS_INFINITY,
    Apply,
    Constant,
    Number,
    Symbol,
    Term,
    holds,
    minus,
    nodes,
    symbols,
)

# Digits for a first look, and the most that are ever used.
_DIGITS = 50
_MOST_DIGITS = 20_000
# A power of ten beyond this is not computed.
_MOST_EXPONENT = 200_000
_WHOLE_POINTS = 16
_ENOUGH = 3

Point = Mapping[str, Fraction]
_TRIGONOMETRIC = frozenset(["sin", "cos", "tan", "cot", "sec", "csc"])


class Failed(Exception):
    """The comparison could not be made: the library raised, or a value is out of bounds."""


class _TooLarge(Failed):
    """A value out of bounds, at one point."""


class _Context(threading.local):
    """mpmath's context of this thread: the digits at work are a part of it."""

    mp: Any = None
    operations: Mapping[str, Callable[..., Any]]


_context = _Context()


def _mpmath() -> Any:
    """The context, made when it is first needed: a tenth of a second, once a process."""
    if _context.mp is None:
        from mpmath import MPContext

        _context.mp = MPContext()
        _context.operations = _operations(_context.mp)
    return _context.mp


def load() -> None:
    """Import the library and use it once, so that no deadline has to cover it."""
    identical(Apply("root", (Number(Fraction(8)), Number(Fraction(2)))), Constant("π"))


@lru_cache(maxsize=8192)
def identical(a: Term, b: Term) -> bool:
    """Whether two terms are equal.

    Raises:
        Undefined: when one of them has no value anywhere.
        Failed: when it cannot be found out.
    """
    if a == b:
        return True
    a, b = _without_steps(a, b)
    names = sorted(symbols(a) | symbols(b))
    if arithmetic.is_rational_function(a) and arithmetic.is_rational_function(b):
        try:
            return all(
                arithmetic.exact(a, point) == arithmetic.exact(b, point)
                for point in _exact_points(names)
            )
        except Inexact:  # a constant in it is not rational
            pass
    return _agree(a, b, names)


def _without_steps(a: Term, b: Term) -> tuple[Term, Term]:
    """The terms with a symbol for each floor and ceiling of a variable.

    Two steps that lie close to each other would agree at every point that is tried.
    """
    found: list[Apply] = []

    def replaced(term: Term) -> Term:
        if not isinstance(term, Apply):
            return term
        term = Apply(term.op, tuple(map(replaced, term.args)))
        if term.op not in ("floor", "ceil") or not symbols(term):
            return term
        for index, other in enumerate(found):
            if other.op == term.op and identical(other.args[0], term.args[0]):
                return Symbol(f"step {index}")
        found.append(term)
        return Symbol(f"step {len(found) - 1}")

    return replaced(a), replaced(b)


def order(a: Term, b: Term) -> int:
    """-1, 0 or 1: how two real terms without symbols compare; infinities are at the ends."""
    if identical(a, b):
        return 0
    if MINUS_INFINITY in (a, b) or INFINITY in (a, b):
        return -1 if a == MINUS_INFINITY or b == INFINITY else 1
    values = arithmetic.rational(a), arithmetic.rational(b)
    if values[0] is not None and values[1] is not None:
        return -1 if values[0] < values[1] else 1
    difference = _Evaluation(minus(a, b), real=True).stable({})
    return -1 if difference < 0 else 1


def proportional(a: Term, b: Term, *, positive: bool) -> bool:
    """Whether one term is the other times a constant that is not zero.

    positive: the constant must be greater than zero.
    """
    names = sorted(symbols(a) | symbols(b))
    point = {name: Number(value) for name, value in _exact_points(names)[0].items()}
    at_a, at_b = _substituted(a, point), _substituted(b, point)
    zero = Number(Fraction(0))
    zeros = identical(at_a, zero), identical(at_b, zero)
    if any(zeros):
        return all(zeros) and identical(a, zero) and identical(b, zero)
    if positive and order(Apply("*", (at_a, at_b)), zero) < 0:
        return False
    return identical(Apply("*", (a, at_b)), Apply("*", (b, at_a)))


@lru_cache(maxsize=4096)
def near(term: Term) -> Fraction | None:
    """The value of a real term without symbols, to 40 digits or more; None of any other.

    Raises:
        Failed: as `identical`.
    """
    if symbols(term) or holds(term, "∞"):
        return None
    try:
        value = arithmetic.rational(term)
        if value is not None:
            return value
        found = _Evaluation(term, real=not holds(term, "i")).stable({})
    except Undefined:
        return None
    if isinstance(found, _mpmath().mpc):
        if abs(found.imag) > abs(found.real) * _mpmath().mpf(10) ** -40:
            return None
        found = found.real
    with _mpmath().workdps(60):
        return Fraction(_mpmath().nstr(found, 50, min_fixed=0, max_fixed=0))


def check(term: Term) -> None:
    """Raise `Undefined` or `Failed` for a term that nothing could be compared with."""
    if not holds(term, "∞"):
        identical(term, Apply("+", (term, Number(Fraction(1)))))


def _substituted(term: Term, values: Mapping[str, Term]) -> Term:
    if isinstance(term, Symbol):
        return values[term.name]
    if isinstance(term, Apply):
        return Apply(term.op, tuple(_substituted(arg, values) for arg in term.args))
    return term


# -- points ------------------------------------------------------------------------------------


def _exact_points(names: list[str]) -> list[dict[str, Fraction]]:
    """Where rational functions are compared; one empty point for constants."""
    if not names:
        return [{}]
    return [
        {name: Fraction(_mixed(4 * index + k) % 999_983 + 2) for index, name in enumerate(names)}
        for k in range(4)
    ]


def _mixed(number: int) -> int:
    """A fixed sequence without a pattern (splitmix64)."""
    number = (number + 1) * 0x9E3779B97F4A7C15 & (1 << 64) - 1
    number = (number ^ number >> 30) * 0xBF58476D1CE4E5B9 & (1 << 64) - 1
    number = (number ^ number >> 27) * 0x94D049BB133111EB & (1 << 64) - 1
    return number ^ number >> 31


# Of each point the least absolute value, the range above it, and the signs of the variables.
_SIZES = (
    (1, 2, "+"), (0, 1, "+"), (3, 7, "+"), (1, 2, "-"), (0, 1, "-"), (20, 40, "+"),
    (1, 3, "±"), (0, 1, "∓"), (3, 7, "-"), (2, 1, "+"), (5, 2, "±"), (100, 50, "+"),
)  # fmt: skip


# The same, in units of the largest number in the terms.
_FAR = ((0, 1, "-"), (1, 2, "-"), (0, 1, "+"), (1, 2, "+"), (1, 1, "±"), (1, 1, "∓"))


def _points(names: list[str], scale: Fraction, *, whole: bool) -> list[dict[str, Fraction]]:
    """Where other terms are compared.

    scale: the largest number in them; |x + 200| has its turn at -200.
    whole: at natural numbers, which n! is about.
    """
    if not names:
        return [{}]
    if whole:
        return [
            {
                name: Fraction(_mixed(64 * k + index) % (5 * k + 5))
                for index, name in enumerate(names)
            }
            for k in range(_WHOLE_POINTS)
        ]
    points = []
    sizes = [(Fraction(least), Fraction(width), signs) for least, width, signs in _SIZES]
    if scale > 3:
        sizes += [(scale * least, scale * width, signs) for least, width, signs in _FAR]
    for k, (least, width, signs) in enumerate(sizes):
        point = {}
        for index, name in enumerate(names):
            part = Fraction(_mixed(1000 + 64 * k + index) % 99_991 + 1, 99_992)
            sign = -1 if signs == "-" or (signs in "±∓" and (index + "±∓".index(signs)) % 2) else 1
            point[name] = sign * (least + width * part)
        points.append(point)
    return points


def _agree(a: Term, b: Term, names: list[str]) -> bool:
    """Whether the terms have the same value wherever both have one."""
    real = not (holds(a, "i") or holds(b, "i"))
    points = _points(names, max(_scale(a), _scale(b)), whole=_counts(a) or _counts(b))
    too_large: Failed | None = None
    for domain in [True, False] if real else [False]:
        both = 0
        left, right = _Evaluation(a, real=domain), _Evaluation(b, real=domain)
        for point in points:
            try:
                same = _same_value(left, right, point)
            except Undefined:
                continue
            except _TooLarge as error:
                if not names:
                    raise
                too_large = error
                continue
            if not same:
                return False
            both += 1
        if both >= (_ENOUGH if names else 1):
            return True
    raise too_large or Undefined


def _scale(term: Term) -> Fraction:
    """The largest number in a term."""
    numbers = [abs(node.value) for node in nodes(term) if isinstance(node, Number)]
    return max(numbers, default=Fraction(0))


def _counts(term: Term) -> bool:
    """Whether a variable of a term counts something."""
    return any(
        isinstance(node, Apply) and node.op in ("!", "binom", "gcd", "lcm") and bool(symbols(node))
        for node in nodes(term)
    )


def _same_value(a: _Evaluation, b: _Evaluation, point: Point) -> bool:
    try:
        return arithmetic.exact(a.term, point) == arithmetic.exact(b.term, point)
    except Inexact:
        pass
    digits = max(a.digits(point), b.digits(point))
    with _mpmath().workdps(digits + 10):
        left, right = a.value(point), b.value(point)
        if left == right:
            return True
        size = max(abs(left), abs(right), 1)
        if _mpmath().isinf(size):
            return False
        return bool(abs(left - right) <= size * _mpmath().mpf(10) ** (-3 * digits // 4))


# -- values ------------------------------------------------------------------------------------


class _Evaluation:
    """The value of a term at points.

    real: a value that is not real is none; else principal values of complex numbers.
    """

    def __init__(self, term: Term, *, real: bool) -> None:
        self.term = term
        self._real = real
        # The largest power of ten, up or down, of any value met.
        self._extent = 0

    def digits(self, point: Point) -> int:
        """How many digits tell the value from any other of its kind at a point."""
        self._extent = 0
        with _mpmath().workdps(_DIGITS):
            self.value(point)
        digits = 2 * _DIGITS + 4 * self._extent
        if digits > _MOST_DIGITS:
            raise _TooLarge("a value is too large, or too small, to be compared")
        return digits

    def stable(self, point: Point) -> Any:
        with _mpmath().workdps(self.digits(point)):
            return self.value(point)

    def value(self, point: Point) -> Any:
        """The value with the digits at work.

        Raises:
            Undefined, Failed
        """
        try:
            return self._of(self.term, point, angle=False)
        except (ZeroDivisionError, ValueError) as error:
            # A pole, or what is outside of a function's domain.
            raise Undefined from error
        except (ArithmeticError, TypeError, AttributeError, NotImplementedError) as error:
            raise Failed(f"{type(error).__name__}: {error}") from error

    def _of(self, term: Term, point: Point, angle: bool) -> Any:
        mp = _mpmath()
        if isinstance(term, Number):
            value = _quotient(term.value)
        elif isinstance(term, Symbol):
            value = _quotient(point[term.name])
        elif isinstance(term, Constant):
            value = {"π": mp.pi, "e": mp.e, "i": mp.j, "∞": mp.inf}[term.name] * 1
        else:
            value = self._applied(term, point, angle)
        return self._seen(value)

    def _applied(self, term: Apply, point: Point, angle: bool) -> Any:
        mp = _mpmath()
        angle = (angle or term.op in _TRIGONOMETRIC) and term.op != "root"
        values = [self._of(arg, point, angle) for arg in term.args]
        if term.op == "deg":
            return values[0] * mp.pi / 180 if angle else values[0]
        if term.op == "^":
            return self._power(values, _odd_root(term.args[1]))
        if term.op == "exp":
            return self._power([mp.e * 1, *values], 0)
        if term.op == "root":
            index = values[1]
            odd = int(index.real) if mp.isint(index) and index.real % 2 else 0
            return self._power([values[0], 1 / index], odd)
        operation = _context.operations.get(term.op)
        if operation is None:
            raise Failed(f"no value of {term.op} is computed here")
        return operation(*values)

    def _power(self, values: list[Any], odd: int) -> Any:
        """A power; the real one of a negative number whose exponent has an odd denominator.

        odd: that denominator, or 0.
        """
        mp = _mpmath()
        base, exponent = values
        if base == 0:
            if mp.re(exponent) <= 0:
                raise Undefined
            return base * 1
        if mp.isinf(base) or mp.isinf(exponent):
            raise Undefined
        size = mp.re(exponent) * mp.log10(abs(base))
        if not abs(size) < _MOST_EXPONENT:
            raise _TooLarge("a power is too large, or too small, to be computed")
        if self._real and base < 0 and odd > 1:
            root = mp.power(-base, exponent)
            return root if mp.nint(exponent * odd) % 2 == 0 else -root
        return mp.power(base, exponent)

    def _seen(self, value: Any) -> Any:
        mp = _mpmath()
        if mp.isnan(value):
            raise Undefined
        if isinstance(value, mp.mpc):
            if value.imag == 0:
                value = value.real
            elif self._real:
                raise Undefined
        if value and not mp.isinf(value):
            self._extent = max(self._extent, abs(int(mp.mag(value) * 0.302)))
        return value


def _odd_root(exponent: Term) -> int:
    """The denominator of an exponent, if it is odd and more than 1; else 0."""
    try:
        value = arithmetic.rational(exponent)
    except Undefined:
        return 0
    odd = value is not None and value.denominator % 2 and value.denominator > 1
    return value.denominator if value is not None and odd else 0


def _quotient(value: Fraction) -> Any:
    return _mpmath().mpf(value.numerator) / value.denominator


def _operations(mp: Any) -> dict[str, Callable[..., Any]]:
    """What is applied to values, by its name in a term."""
    return {
        "+": lambda *values: mp.fsum(values),
        "neg": lambda value: -value,
        "*": lambda *values: mp.fprod(values),
        "/": lambda over, under: over / under,
        "!": lambda value: _factorial(mp, value),
        "abs": abs,
        "log": lambda value, base: mp.log(value) / mp.log(base),
        "ln": mp.log,
        "sin": mp.sin, "cos": mp.cos, "tan": _with_poles(mp, mp.tan),
        "cot": _with_poles(mp, mp.cot), "sec": _with_poles(mp, mp.sec),
        "csc": _with_poles(mp, mp.csc),
        "arcsin": mp.asin, "arccos": mp.acos, "arctan": mp.atan,
        "arccot": lambda value: mp.pi / 2 - mp.atan(value),
        "sinh": mp.sinh, "cosh": mp.cosh, "tanh": mp.tanh,
        "floor": lambda value: _step(mp, mp.floor, value),
        "ceil": lambda value: _step(mp, mp.ceil, value),
        "max": max, "min": min,
        "binom": mp.binomial,
    }  # fmt: skip


def _step(mp: Any, function: Callable[..., Any], value: Any) -> Any:
    """The floor or ceiling; digits that are not certain are not rounded away."""
    nearest = mp.nint(value)
    close = abs(value - nearest) < mp.mpf(10) ** (-mp.dps // 2)
    return nearest if close else function(value)


def _with_poles(mp: Any, function: Callable[..., Any]) -> Callable[..., Any]:
    """tan 90° is no large number."""

    def applied(value: Any) -> Any:
        result = function(value)
        if mp.mag(result) > 2.6 * mp.dps:
            raise Undefined
        return result

    return applied


def _factorial(mp: Any, value: Any) -> Any:
    if abs(value) > arithmetic.MAX_FACTORIAL:
        raise _TooLarge("a factorial is too large to be computed")
    return mp.factorial(value)


def degrees_to_radians(term: Term) -> Term:
    """π/180 times a term."""
    half_turn = Number(Fraction(180))
    return Apply("/", (Apply("*", (term, Constant("π"))), half_turn))
