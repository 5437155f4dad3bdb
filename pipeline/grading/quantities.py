"""Numbers as people write them in an answer, read exactly: "1,234.50", "3/4", "12 %", "$5", "3 cm".

What always holds: a text is read as one number or not at all. Two numbers, a sum, a range, a
variable, a decimal comma are not read. Values are exact fractions; nothing is a float. The text
comes from `answers.plain`, so LaTeX wrappers are gone. No text takes long: every pattern is linear
and long numbers are refused.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache

from pipeline.grading.units import CHINESE, CURRENCIES, SUPERSCRIPTS, Unit, read_unit

MAX_DIGITS = 60
# Case folding of ASCII only: in Unicode the Kelvin sign is a "k".
_FOLD = re.IGNORECASE | re.ASCII


@dataclass(frozen=True)
class Quantity:
    """One number.

    value: in units of `unit`; of a percentage the number before the sign (50 for "50%").
    step: the weight of the last decimal written (1/100 for "3.10"); None for integers, fractions
        and numbers with an exponent, which are exact.
    percent: whether a percent sign was written.
    unit: None when none was written.
    """

    value: Fraction
    step: Fraction | None = None
    percent: bool = False
    unit: Unit | None = None


# "The 1990s" are no number of seconds.
_DECADE = Unit((("decade", 1),))
_HEDGE = re.compile(
    r"(?:(?:approximately|approx\.?|about|around|roughly)\s+|\\approx|\\sim|≈|~|约为?|大约)\s*",
    _FOLD,
)
_LATEX_FRACTION = re.compile(
    r"\\frac\s*(?:\{\s*(-?)(\d{1,60})\s*\}|(\d))\s*(?:\{\s*(-?)(\d{1,60})\s*\}|(\d))"
)
VULGAR = re.compile("[¼-¾⅐-⅞]")

_SIGN = r"(?:[-+]|minus(?=\s)|negative(?=\s)|负)"
_SIGNED = re.compile(
    rf"(?P<sign>{_SIGN})?\s*(?P<currency>[{CURRENCIES}])?\s*(?P<late>[-+])?\s*", _FOLD
)
REPEATING = re.compile(
    r"(?P<units>\d{0,30})\.(?P<fixed>\d{0,30}?)"
    r"(?:\\(?:overline|bar|dot)\s*(?:\{(?P<period>\d{1,30})\}|(?P<digit>\d))(?![\d.\\({])"
    r"|\\dot\s*\{?(?P<first>\d)\}?(?P<between>\d{0,30})\\dot\s*\{?(?P<last>\d)\}?(?![\d.\\({])"
    r"|\((?P<round>\d{1,30})\)(?![\d.\\({]))"
)
_NUMERAL = re.compile(
    r"(?:(?P<whole>\d{1,60})\s+)?(?P<over>\d{1,60})\s*/\s*(?P<under>\d{1,60})(?![\d.])"
    r"|(?P<integer>\d{1,3}(?:,\d{3})+|\d{1,3}(?: \d{3})+|\d+)?(?P<decimal>\.\d*)?(?![\d,.])"
)
_TEN = (
    r"10\s*(?:\^\s*\{\s*(?P<braced>[-+]?\d{1,3})\s*\}|\^\s*(?P<bare>[-+]?\d{1,3})(?!\d)"
    r"|(?P<raised>[⁻⁺]?[⁰¹²³⁴⁵⁶⁷⁸⁹]{1,3}))"
)
_POWER_OF_TEN = re.compile(_TEN)
_TIMES_TEN = re.compile(rf"[eE](?P<e>[-+]?\d{{1,3}})(?!\d)|\s*(?:×|x|\*|·|\\times|\\cdot)\s*{_TEN}")
_SMALL = (
    "zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|"
    "sixteen|seventeen|eighteen|nineteen"
)
_ONES = "one|two|three|four|five|six|seven|eight|nine"
_TENS = "twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety"
_WORDS = {word: value for value, word in enumerate(_SMALL.split("|"))} | {
    word: 10 * tens for tens, word in enumerate(_TENS.split("|"), start=2)
}
_WORDED = re.compile(rf"(?:({_TENS})(?:[- ]({_ONES}))?|({_SMALL}))(?![\w-])", _FOLD)
_SCALES = {
    "dozen": 12, "hundred": 10**2, "thousand": 10**3, "lakh": 10**5, "million": 10**6,
    "crore": 10**7, "billion": 10**9, "trillion": 10**12, "万": 10**4, "亿": 10**8,
}  # fmt: skip
_SCALE = re.compile(
    rf"\s*(?<![A-Za-z])(?:({'|'.join(word for word in _SCALES if word.isascii())})s?\b|([万亿]))",
    _FOLD,
)
# "3 tenths", "two thirds", "one-half". A "second" is a time and "4 quarters" may be coins.
_ORDINALS = {
    "half": 2, "halves": 2, "third": 3, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7,
    "eighth": 8, "ninth": 9, "tenth": 10, "hundredth": 100, "thousandth": 1000,
}  # fmt: skip
_PART = re.compile(
    rf"(?:(?P<digits>\d{{1,30}})|(?P<word>{_SMALL}|a))[ -]"
    rf"(?P<part>{'|'.join(_ORDINALS)})(?P<many>s?)",
    _FOLD,
)
_PERCENT = re.compile(r"\s*(?:%|percent(?:age)?(?: points?)?|per cent|pct)\.?", _FOLD)


@lru_cache(maxsize=8192)
def read_quantity(text: str) -> Quantity | None:
    """The one number that `text` states, or None."""
    if text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS:
        return Quantity(Fraction(int(text)))
    text = _without(_HEDGE, text.strip())
    # In brackets a comma separates: (1,234) is a pair.
    if text.startswith("(") and text.endswith(")") and text.count("(") == 1 and "," not in text:
        text = text[1:-1].strip()
    text = _LATEX_FRACTION.sub(_slashed, text)
    text = VULGAR.sub(lambda match: f" {slashed(match[0])}", text).strip()
    return _signed(text) or _compound(text)


def _signed(text: str) -> Quantity | None:
    head = _SIGNED.match(text)
    assert head is not None  # every part of it is optional
    if head["sign"] and head["late"]:
        return None
    number = _number(text, head.end())
    if number is None:
        return None
    quantity, end = number
    if (head["sign"] or head["late"] or "+") != "+":
        quantity = replace(quantity, value=-quantity.value)
    return _with_suffix(quantity, text[end:], head["currency"])


def _without(prefix: re.Pattern[str], text: str) -> str:
    match = prefix.match(text)
    return text if match is None else text[match.end() :]


def slashed(vulgar: str) -> str:
    """ "1/2" for "½"."""
    return unicodedata.normalize("NFKC", vulgar).replace("\N{FRACTION SLASH}", "/")


def _slashed(match: re.Match[str]) -> str:
    sign = "-" if (match[1] == "-") != (match[4] == "-") else ""
    return f" {sign}{match[2] or match[3]}/{match[5] or match[6]} "


def _number(text: str, start: int) -> tuple[Quantity, int] | None:
    """The unsigned number at `start`, and where it ends."""
    part = _PART.match(text, start)
    if part is not None and not text[part.end() : part.end() + 1].isalnum():
        return _part(part)
    worded = _WORDED.match(text, start)
    if worded is not None:
        words = [word.lower() for word in worded.groups() if word]
        return _scaled(Quantity(Fraction(sum(_WORDS[word] for word in words))), text, worded.end())
    period = REPEATING.match(text, start)
    if period is not None:
        return Quantity(repeating(period)), period.end()
    power = _POWER_OF_TEN.match(text, start)
    if power is not None:
        return Quantity(_power_of_ten(power)), power.end()
    return _numeral(text, start)


def _numeral(text: str, start: int) -> tuple[Quantity, int] | None:
    """Digits, with a fraction, an exponent or a scale word after them."""
    match = _NUMERAL.match(text, start)
    if match is None or not any(char.isdigit() for char in match[0]):
        return None
    if sum(char.isdigit() for char in match[0]) > MAX_DIGITS:
        return None
    if match["under"]:
        value = _fraction(match)
        return None if value is None else (Quantity(value), match.end())
    digits = (match["integer"] or "0").replace(",", "").replace(" ", "")
    decimals = (match["decimal"] or ".")[1:]
    value = Fraction(int(digits + decimals), 10 ** len(decimals))
    step = Fraction(1, 10 ** len(decimals)) if decimals else None
    power = _TIMES_TEN.match(text, match.end())
    if power is not None:
        return Quantity(value * _power_of_ten(power)), power.end()
    return _scaled(Quantity(value, step), text, match.end())


def _power_of_ten(match: re.Match[str]) -> Fraction:
    exponent = next(group for group in match.groups() if group)
    return Fraction(10) ** int(exponent.translate(SUPERSCRIPTS))


def _part(match: re.Match[str]) -> tuple[Quantity, int] | None:
    """ "3 tenths"; not "3 tenth" or "one thirds"."""
    count = int(match["digits"]) if match["digits"] else _WORDS.get(match["word"].lower(), 1)
    part = match["part"].lower()
    plural = part == "halves" or bool(match["many"])
    if (count != 1) != plural or (part in ("half", "halves") and match["many"]):
        return None
    return Quantity(Fraction(count, _ORDINALS[part])), match.end()


def repeating(match: re.Match[str]) -> Fraction:
    """0.1\\overline{6}, 0.\\dot{1}4285\\dot{7}, 0.1(6)."""
    period = match["period"] or match["digit"] or match["round"]
    if period is None:
        period = match["first"] + match["between"] + match["last"]
    fixed = match["fixed"]
    start = Fraction(int((match["units"] or "0") + fixed), 10 ** len(fixed))
    return start + Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(fixed))


def _fraction(match: re.Match[str]) -> Fraction | None:
    over, under = int(match["over"]), int(match["under"])
    if under == 0:
        return None
    if match["whole"] is None:
        return Fraction(over, under)
    # "2 1/2" is a mixed number; "2 3/2" is not one.
    return int(match["whole"]) + Fraction(over, under) if over < under else None


def _scaled(quantity: Quantity, text: str, end: int) -> tuple[Quantity, int]:
    """The number times the scale words after it: "two hundred thousand"."""
    while (scale := _SCALE.match(text, end)) is not None:
        quantity = Quantity(quantity.value * _SCALES[(scale[1] or scale[2]).lower()])
        end = scale.end()
    return quantity, end


def _with_suffix(quantity: Quantity, rest: str, currency: str | None) -> Quantity | None:
    """The number with the percent sign or the unit after it; None when something else follows."""
    if not rest.strip():
        return quantity if currency is None else replace(quantity, unit=read_unit(currency))
    if currency is not None:
        return None
    if _PERCENT.fullmatch(rest.rstrip()):
        return replace(quantity, percent=True)
    if rest.strip() == "s" and rest[0] == "s" and _is_decade(quantity.value):
        return replace(quantity, unit=_DECADE)
    unit = read_unit(rest.strip(), spaced=rest[0].isspace())
    if unit is None:
        return None
    return replace(quantity, unit=unit)


def _is_decade(value: Fraction) -> bool:
    return value.denominator == 1 and 1000 <= value <= 2990 and value % 10 == 0


_SEAM = re.compile(
    rf"(?<=[A-Za-z.°′'{CHINESE}])(?:\s*,\s*|\s+and\s+|\s*)(?=\d)|(?<=[A-Za-z])\s+and\s+(?=\d)"
)
_MINUTES = re.compile(
    r"(\d{1,3})°\s*(\d{1,2})\s*['′](?:\s*(\d{1,2}(?:\.\d{1,9})?)\s*(?:''|[\"″]))?"
)


def _compound(text: str) -> Quantity | None:
    """ "2 hours 30 minutes", "5 ft 3 in", "30°15'": one quantity, from larger units to smaller."""
    if (angle := _MINUTES.fullmatch(text)) is not None:
        minutes, seconds = Fraction(angle[2]), Fraction(angle[3] or 0)
        if minutes >= 60 or seconds >= 60:
            return None
        value = int(angle[1]) + minutes / 60 + seconds / 3600
        return Quantity(value, unit=read_unit("°"))
    pieces = _SEAM.split(text)
    if not 2 <= len(pieces) <= 4 or not all(piece[:1].isdigit() for piece in pieces):
        return None
    parts = [_signed(piece.strip()) for piece in pieces]
    total, last = Fraction(0), None
    for index, part in enumerate(parts):
        if part is None or part.unit is None or part.unit.noun is not None:
            return None
        if index < len(parts) - 1 and part.value.denominator != 1:
            return None
        size = part.value * part.unit.factor
        if last is not None and (part.unit.dimension != last.dimension or size >= last.factor):
            return None
        total, last = total + size, part.unit
    assert last is not None  # there are two pieces
    return Quantity(total / last.factor, unit=last)


def same_quantity(answer: Quantity, gold: Quantity, *, rounding: bool = True) -> bool:
    """Whether an answer states the gold number.

    Exact, with two allowances when `rounding`: a gold answer with decimals is met by what rounds to
    it ("3.14" by "3.1416", as MathVista does), and a gold fraction without a finite decimal form by
    its rounding to three decimals or more ("1/3" by "0.333"). A known unit counts when both name
    one, and is converted; a noun only the gold answer may add: "7" is met by "7 cm", not by
    "7 apples", and "7 apples" by "7". A percent sign may be left out or added ("50" for "50%"), and
    a percentage may be written as a share ("0.5").
    """
    if answer.percent or gold.percent:
        if answer.unit is not None or gold.unit is not None:
            return False
        return _same_percentage(answer, gold, rounding)
    if not same_unit(answer.unit, gold.unit):
        return False
    factor = conversion(answer.unit, gold.unit)
    return _close(answer if factor == 1 else _times(answer, factor), gold, rounding)


def conversion(answer: Unit | None, gold: Unit | None) -> Fraction | int:
    """How many of the gold answer's units one of the answer's is; 1 where one of them is open."""
    if answer is None or gold is None or answer.dimension != gold.dimension:
        return 1
    return answer.factor / gold.factor


def same_unit(answer: Unit | None, gold: Unit | None) -> bool:
    """Whether the units allow that two numbers state the same."""
    if _DECADE in (answer, gold) and answer != gold:
        return False
    if answer is None or gold is None:
        return answer is None or answer.noun is None
    if answer.bare != gold.bare:  # "5 units" leaves open which
        return answer.noun is None
    return answer.dimension == gold.dimension


def _same_percentage(answer: Quantity, gold: Quantity, rounding: bool) -> bool:
    hundred = Fraction(100)
    if answer.percent and gold.percent:
        return _close(answer, gold, rounding)
    if gold.percent:
        return _close(answer, gold, rounding) or _close(_times(answer, hundred), gold, rounding)
    # A gold answer up to 1 without a sign is read as a share, or "0.5%" would pass for "0.5".
    share = abs(gold.value) <= 1
    return _close(_times(answer, 1 / hundred) if share else answer, gold, rounding)


def _times(quantity: Quantity, factor: Fraction | int) -> Quantity:
    step = None if quantity.step is None else quantity.step * factor
    return Quantity(quantity.value * factor, step)


def _close(answer: Quantity, gold: Quantity, rounding: bool) -> bool:
    if answer.value == gold.value or not rounding:
        return answer.value == gold.value
    if gold.step is not None:
        return abs(answer.value - gold.value) <= gold.step / 2
    return _endless(gold.value) and is_rounding(answer, gold.value)


def is_rounding(written: Quantity, exact: Fraction) -> bool:
    """Whether `written` is `exact` rounded to three decimals or more."""
    step = written.step
    return step is not None and step <= Fraction(1, 1000) and abs(written.value - exact) <= step / 2


def _endless(value: Fraction) -> bool:
    """Whether `value` has no finite decimal form."""
    rest = value.denominator
    if rest == 1:
        return False
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    return rest != 1
