"""Equality of mathematical expressions, by math-verify: all of this project's sympy.

What always holds: the *whole* text is one expression or nothing is (math-verify by itself would
take the last number out of a sentence). No alarm signal is used: a text may take for ever, so only
a process that can be killed may call this (`actors.grading.pool`). The plain-expression extractor
of math-verify is never used: it evaluates the text as Python.
"""

from __future__ import annotations

import logging
import re
from fractions import Fraction
from functools import cache, lru_cache
from typing import Any

from pipeline.grading.quantities import Quantity, is_rounding, read_quantity, same_quantity
from pipeline.grading.units import Unit, read_unit

# What an answer holds that only algebra can compare with a number.
IRRATIONAL = re.compile(
    r"√|π|∞|\\(?:sqrt|pi|log|ln|sin|cos|tan|infty)(?![A-Za-z])|\b(?:sqrt|pi|log|ln|sin|cos|tan)\b"
    r"|\be\s*\^"
)

MATHEMATICAL = re.compile(r"[\\√π∞^=<>≤≥+*/×·÷]|\d")

# Words; after "answer" math-verify would look for an expression inside the expression.
_PROSE = re.compile(r"[A-Za-z]{3,} [A-Za-z]{2,}|answer", re.IGNORECASE)

# An equation says one thing; of a chain of them math-verify takes the last part that it can read.
_CHAIN = re.compile(r"(?<![<>!])=[^=,;]*=")

_UNIT = re.compile(r"(?<=[\d})\s°πA-Za-z])\s*(°|°?[A-Za-zμ][A-Za-zμ ./]*(?:\^\{?[23]\}?|[²³])?)$")

_NAMED = "arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|log|ln|exp"

_SUPERSCRIPT = re.compile("[⁻⁺]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+")

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")

_ROOT = re.compile(
    r"(?:√|(?<![\\A-Za-z])sqrt)\s*(?:\(([^()]*)\)|\{([^{}]*)\}|(\d+(?:\.\d+)?|[A-Za-z]))"
)

_EXPONENT = r"\^\s*(?:\d+(?:\.\d+)?|[A-Za-z]|\{[^{}]*\}|\([^()]*\))\s*"

_TOWER = re.compile(rf"(?:{_EXPONENT}){{2,}}")

_LATEX: tuple[tuple[re.Pattern[str], str], ...] = (
    # A whole number before a fraction of numbers makes a mixed number, never a product.
    (re.compile(r"(?<![\d.,^_{])(\d+) ?\\frac\{(\d+)\}\{(\d+)\}"), r"(\1+\\frac{\2}{\3})"),
    (re.compile(r"(?<![\d.,/] )(?<![\d.,^_{/])(\d+) (\d+)/(\d+)"), r"(\1+\\frac{\2}{\3})"),
    (re.compile(r"(?<![\\A-Za-z])abs\(([^()]*)\)"), r"|\1|"),
    (re.compile(r"\*\*"), "^"),
    (re.compile(r"\s*[*·⋅×]\s*"), r" \\cdot "),
    (re.compile(r"÷"), "/"),
    (re.compile(r"≤|<="), r" \\le "),
    (re.compile(r"≥|>="), r" \\ge "),
    (re.compile(r"≠|!="), r" \\ne "),
    (re.compile(r"π|(?<![\\A-Za-z])pi(?![A-Za-z])"), r" \\pi "),
    (re.compile(r"∞|(?<![\\A-Za-z])infinity(?![A-Za-z])"), r" \\infty "),
    (re.compile(rf"(?<![\\A-Za-z])({_NAMED})(?=[ ({{\\\d_^])"), r"\\\1"),
    (re.compile(r"°"), ""),
)


class Unreadable(Exception):
    """An answer that is not one mathematical expression."""


class UnreadableGold(Exception):
    """A gold answer that is not one."""


@cache
def _library() -> tuple[Any, Any, list[Any]]:
    """math-verify's `parse` and `verify`, and how to read LaTeX: about a second, once a process."""
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse, verify

    # It warns that its own timeout is off: the pool's deadline stands in for it.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    # units=False: its list holds "c", "m", "t": "3c" would equal "3".
    rules = NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none"
    )
    return parse, verify, [LatexExtractionConfig(-1, normalization_config=rules)]


def load() -> None:
    """Import math-verify and use it once, so that no deadline has to cover what comes first.

    The first comparison of a process builds parser tables and imports half of sympy: a second.
    """
    same_expression("x + \\sqrt{2}", "\\frac{2}{\\sqrt{2}} + x")


def to_latex(text: str) -> str:
    """The LaTeX of an expression in everyday notation: "2√3", "x²", "sqrt(2)", "3 × 4"."""
    text = _SUPERSCRIPT.sub(lambda match: f"^{{{match[0].translate(_SUPERSCRIPTS)}}}", text)
    text = _ROOT.sub(lambda match: rf"\sqrt{{{match[1] or match[2] or match[3] or ''}}}", text)
    for pattern, replacement in _LATEX:
        text = pattern.sub(replacement, text)
    return _TOWER.sub(_nested, text).strip()


def _nested(tower: re.Match[str]) -> str:
    """2^3^2 is 2^{3^{2}}: LaTeX leaves it open, and math-verify would begin at the left."""
    exponents = [part.strip() for part in tower[0].split("^")[1:]]
    return "".join(f"^{{{exponent}" for exponent in exponents) + "}" * len(exponents) + " "


@lru_cache(maxsize=4096)
def _parse(text: str) -> Any:
    """The sympy object that all of `text` is.

    Raises:
        Unreadable: when it is none, or divides by zero.
    """
    latex = to_latex(text)
    if not latex or "$" in latex or _CHAIN.search(latex) or _PROSE.search(text):
        raise Unreadable(text)
    parse, _, config = _library()
    found = parse(
        f"${latex}$",
        extraction_config=config,
        fallback_mode="no_fallback",
        parsing_timeout=None,
        raise_on_error=True,
    )
    if len(found) != 1:
        raise Unreadable(text)
    import sympy

    if found[0].has(sympy.nan, sympy.zoo):
        raise Unreadable(text)
    return found[0]


def same_expression(answer: str, gold: str) -> bool:
    """Whether two plain texts (`answers.plain`) are mathematically equal.

    A unit counts when both name one, and must then be the same. A gold number with decimals is met
    by an exact form that rounds to it, and an exact gold answer by a decimal form of three places
    or more, as in `quantities.same_quantity`.

    Raises:
        Unreadable: when `answer` is not one expression.
        UnreadableGold: when `gold` is not.
    """
    answer, answer_unit = split_unit(answer)
    gold, gold_unit = split_unit(gold)
    try:
        wanted = _parse(gold)
    except Unreadable as error:
        raise UnreadableGold(gold) from error
    found = _parse(answer)
    if answer_unit is not None and gold_unit is not None and answer_unit != gold_unit:
        return False
    return _verified(found, wanted) or _same_rounded(answer, found, gold, wanted)


def _verified(found: Any, wanted: Any) -> bool:
    _, verify, _ = _library()
    try:
        return bool(verify(wanted, found, timeout_seconds=None, raise_on_error=True))
    except ValueError as error:
        # math-verify pairs the elements of two sets strictly; "1, 2, 2" has three of them.
        if "zip()" in str(error):
            return False
        raise


def _same_rounded(answer: str, found: Any, gold: str, wanted: Any) -> bool:
    """Equality up to rounding, where one of the two is written as a number and one is exact."""
    written, expected = read_quantity(answer), read_quantity(gold)
    if (written is None) == (expected is None):
        return False
    if expected is not None:
        value = _real_value(found)
        return value is not None and same_quantity(Quantity(value), expected)
    value = _real_value(wanted)
    return value is not None and written is not None and is_rounding(written, value)


def _real_value(expression: Any) -> Fraction | None:
    """The value of a real number to 30 digits; None for anything else."""
    if not getattr(expression, "is_number", False) or expression.is_extended_real is not True:
        return None
    value = expression.evalf(30)
    return Fraction(str(value)) if value.is_Float or value.is_Rational else None


def split_unit(text: str) -> tuple[str, Unit | None]:
    """The expression and the known unit after it: "6√3 cm". A single letter may be a variable."""
    match = _UNIT.search(text)
    if match is None or (len(match[1]) == 1 and match[1] != "°"):
        return text, None
    unit = read_unit(match[1], spaced=False)
    rest = text[: match.start()].strip()
    return (text, None) if unit is None or not rest else (rest, unit)
