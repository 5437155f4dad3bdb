"""Units as they follow a number: what they measure, and how many base units they are.

What always holds: the same unit in any spelling or language reads as the same `Unit`, units of one
dimension differ only by an exact factor, and a noun that is no unit ("apples") is a dimension of
its own, equal to itself only. A text that is not plainly a unit is not read.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

CURRENCIES = "$€£¥₹"
CHINESE = "\u4e00-\u9fff"
# Case folding of ASCII only: in Unicode the Kelvin sign is a "k".
_FOLD = re.IGNORECASE | re.ASCII

# What is measured, by base dimension and exponent, sorted: (("length", 1), ("time", -1)).
Dimension = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Unit:
    """factor: exact, base units in one of these."""

    dimension: Dimension
    factor: Fraction = Fraction(1)

    @property
    def noun(self) -> str | None:
        """The noun that stands where a unit would; None for a known unit."""
        name = self.dimension[0][0]
        return name.removeprefix("noun ") if name.startswith("noun ") else None

    @property
    def bare(self) -> bool:
        """Whether it is no more than "units" or "square units", of whatever they are."""
        return [name for name, _ in self.dimension] == ["unit"]


_PREFIXES = {
    "k": ("kilo", "1000"), "d": ("deci", "1/10"), "c": ("centi", "1/100"), "m": ("milli", "1/1000"),
    "μ": ("micro", "1/1000000"), "n": ("nano", "1/1000000000"), "M": ("mega", "1000000"),
    "G": ("giga", "1000000000"),
}  # fmt: skip
_FORCE, _ENERGY, _POWER = "mass length time^-2", "mass length^2 time^-2", "mass length^2 time^-3"
# Dimension, base units in one, symbols, names (read in any case, with or without an s), prefixes.
_TABLE: list[tuple[str, str, str, str, str]] = [
    ("length", "1", "m 米 公尺", "meter metre", "kdcmμn"),
    ("length", "1/100", "厘米 公分", "", ""),
    ("length", "1/1000", "毫米", "", ""),
    ("length", "1/10", "分米", "", ""),
    ("length", "1000", "千米 公里", "", ""),
    ("length", "254/10000", "in 英寸", "inch inches", ""),
    ("length", "3048/10000", "ft 英尺", "foot feet", ""),
    ("length", "9144/10000", "yd", "yard", ""),
    ("length", "1609344/1000", "mi 英里", "mile", ""),
    ("length^2", "10000", "公顷", "hectare", ""),
    ("length^2", "40468564224/10000000", "", "acre", ""),
    ("length^3", "1/1000", "l L 升", "liter litre", "mc"),
    ("length^3", "1/1000000", "毫升 cc", "", ""),
    ("length^3", "3785411784/1000000000000", "gal", "gallon", ""),
    ("length^3", "946352946/1000000000000", "qt", "quart", ""),
    ("length^3", "473176473/1000000000000", "pt", "pint", ""),
    ("length^3", "2365882365/10000000000000", "", "cup", ""),
    ("mass", "1/1000", "g 克", "gram gramme", "kmμ"),
    ("mass", "1", "千克 公斤", "", ""),
    ("mass", "1000", "吨", "ton tonne", ""),
    ("mass", "45359237/100000000", "lb 磅", "pound", ""),
    ("mass", "45359237/1600000000", "oz", "ounce", ""),
    ("time", "1", "s 秒", "sec second", "mμn"),
    ("time", "60", "min 分钟", "min minute", ""),
    ("time", "3600", "h 小时 时", "hr hour", ""),
    ("time", "86400", "天 日", "day", ""),
    ("time", "604800", "周 星期", "week", ""),
    ("month", "1", "月 个月", "month", ""),
    ("month", "12", "年", "year", ""),
    ("angle", "1", "° 度 deg", "degree", ""),
    ("radian", "1", "rad 弧度", "rad radian", ""),
    ("celsius", "1", "℃ 摄氏度", "celsius", ""),
    ("fahrenheit", "1", "℉", "fahrenheit", ""),
    ("temperature", "1", "K", "kelvin", ""),
    ("dollar", "1", "$ 美元", "dollar usd", ""),
    ("dollar", "1/100", "¢", "cent", ""),
    ("euro", "1", "€", "euro eur", ""),
    ("sterling", "1", "£", "gbp", ""),
    ("yen", "1", "¥", "yen", ""),
    ("yuan", "1", "元", "yuan rmb", ""),
    ("rupee", "1", "₹ rs Rs", "rupee", ""),
    ("current", "1", "A 安 安培", "amp ampere", "mμk"),
    ("amount", "1", "mol 摩尔", "mole", "m"),
    (_FORCE, "1", "N 牛 牛顿", "newton", "kM"),
    (_ENERGY, "1", "J 焦 焦耳", "joule", "kM"),
    (_ENERGY, "4184/1000", "cal", "calorie", "k"),
    (_ENERGY, "3600000", "kWh", "", ""),
    (_POWER, "1", "W 瓦", "watt", "kmMG"),
    (_POWER, "1000", "千瓦", "", ""),
    (f"{_POWER} current^-1", "1", "V 伏 伏特", "volt", "kmM"),
    (f"{_POWER} current^-2", "1", "Ω Ω 欧 欧姆", "ohm", "kM"),
    ("current time", "1", "", "coulomb", "mμn"),
    ("mass time^-2 current^-1", "1", "", "tesla", ""),
    ("mass length^-1 time^-2", "1", "Pa 帕", "pascal", "kMG"),
    ("mass length^-1 time^-2", "101325", "atm", "atmosphere", ""),
    ("time^-1", "1", "Hz 赫兹", "hertz", "kMG"),
    ("length time^-1", "1609344/3600000", "", "mph", ""),
    ("length time^-1", "1/36*10", "", "kph kmh kmph", ""),
    ("length time^-1", "3048/10000", "", "fps", ""),
    ("unit", "1", "个 单位", "unit", ""),
]  # fmt: skip


def _power(dimension: str) -> Dimension:
    exponents = {}
    for part in dimension.split():
        name, _, exponent = part.partition("^")
        exponents[name] = int(exponent or 1)
    return tuple(sorted(exponents.items()))


def _factor(text: str) -> Fraction:
    over, _, times = text.partition("*")
    return Fraction(over) * int(times or 1)


def _entries() -> Iterator[tuple[str, Unit, bool]]:
    """Every spelling, its unit, and whether it is a name."""
    for dimension, factor, marks, names, prefixes in _TABLE:
        unit = Unit(_power(dimension), _factor(factor))
        for mark in marks.split():
            yield mark, unit, False
        for name in names.split():
            yield name, unit, True
        for prefix in prefixes:
            long, size = _PREFIXES[prefix]
            larger = Unit(unit.dimension, unit.factor * Fraction(size))
            for mark in marks.split():
                if mark[0] < "\u3000":
                    yield prefix + mark, larger, False
                    if prefix == "μ":
                        yield f"u{mark}", larger, False
            for name in names.split():
                yield long + name, larger, True


_MARKS = {spelling: unit for spelling, unit, is_name in _entries() if not is_name}
_NAMES = {spelling: unit for spelling, unit, is_name in _entries() if is_name}
_SHOUTED = {mark.upper(): _MARKS[mark] for mark in ("cm", "km", "kg", "lb", "ft", "in")}
# Letters that are more often a product of variables than a unit, where a product may stand.
_PRODUCTS = frozenset(
    ["mg", "ms", "mN", "mV", "mA", "mi", "kV", "kN", "kJ", "kW", "pt", "cc", "um", "ug", "us"]
)

_DEGREES = re.compile(r"(?:°|deg\.?|degrees?)\s*(?P<scale>c|f|celsius|fahrenheit)", _FOLD)
SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
_SPELLED = (
    (re.compile(r"[⁻]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+"), lambda found: f"^{found[0].translate(SUPERSCRIPTS)}"),
    (re.compile(r"\s*(?:\\cdot|\\times|[·⋅*×])\s*"), lambda _: " "),
    (re.compile(r"\s+per\s+|\s*每\s*|\s*/\s*"), lambda _: " / "),
    (re.compile(r"平方(?=\S)"), lambda _: "square "),
    (re.compile(r"立方(?=\S)"), lambda _: "cubic "),
    (re.compile(r"(?<=[A-Za-z])([23])(?!\d)"), lambda found: f"^{found[1]}"),
    (re.compile(r"\s*\^\s*\{?\s*(-?\d)\s*\}?"), lambda found: f"^{found[1]}"),
    (re.compile(r"([()])"), lambda found: f" {found[1]} "),
)
_EXPONENTS = frozenset(["", *map(str, range(1, 10)), *map(str, range(-9, 0))])
_BEFORE = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
_AFTER = {"squared": 2, "cubed": 3}

# One to three words. What changes the number, or joins a second statement to it, is no noun.
_NOUN = re.compile(rf"[A-Za-z][A-Za-z'’-]+(?: [A-Za-z][A-Za-z'’-]+){{0,2}}|[{CHINESE}]{{1,6}}")
_NOT_NOUNS = """
    and or nor not no none never but to than then from of is are was isn't plus minus times over
    divided multiplied by power point squared cubed root half halves third thirds quarter quarters
    more less fewer at least most per if yes true false with without except either
    neither hundred thousand million billion trillion percent percentage percents bn mn
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
    sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety
    pi sqrt sin cos tan log ln mod infinity base 或 和 与 到 至
    """
_EXCLUDED = frozenset(_NOT_NOUNS.split())
# What changes a number in words that could be nouns: no gold answer is read as so many of them.
_OPERATORS = frozenset(
    ["factorial", "factorials", "alpha", "beta", "gamma", "delta", "epsilon", "theta", "lambda",
     "mu", "sigma", "phi", "omega"]
)  # fmt: skip


def read_unit(text: str, *, spaced: bool = True, product: bool = False) -> Unit | None:
    """The unit that `text` names, or None.

    Args:
        spaced: whether a space stood between number and unit. A known unit may be attached
            ("12cm"); of nouns only a separate word is one, never a letter ("12x").
        product: whether a product of variables may stand there as well; then "mg" is no unit.
    """
    text = text.strip().rstrip(".")
    if product and (text in _PRODUCTS or (len(text) == 1 and text.isascii())):
        return None
    known = _known(text)
    if known is not None or product:
        return known
    if not (spaced or "\u4e00" <= text[:1] <= "\u9fff") or not _NOUN.fullmatch(text):
        return None
    words = [_folded(word) for word in text.replace("’", "'").split()]
    if _EXCLUDED.intersection(part for word in words for part in [word, *word.lower().split("-")]):
        return None
    return Unit((("noun " + " ".join(_singular(word) for word in words), 1),))


def is_operator(unit: Unit) -> bool:
    """Whether a noun may change the number before it: "5 factorial", "3 theta"."""
    return unit.noun is not None and not _OPERATORS.isdisjoint(
        word for spelled in unit.noun.split() for word in (spelled, f"{spelled}s")
    )


def _folded(word: str) -> str:
    """A noun in small letters, but for what may be a symbol: kB is not kb, nor MeV meV."""
    symbol = len(word) == 2 or not (word[1:].islower() or word.isupper())
    return word if symbol else word.lower()


def _singular(word: str) -> str:
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word


def _known(text: str) -> Unit | None:
    """A product and quotient of known units with exponents: "kg m/s^2", "miles per hour"."""
    if (degrees := _DEGREES.fullmatch(text)) is not None:
        return _MARKS["℃" if degrees["scale"].lower().startswith("c") else "℉"]
    for pattern, spelled in _SPELLED:
        text = pattern.sub(spelled, text)
    words = text.split()
    if not words or len(words) > 12:
        return None
    over, *under = _split(words, "/")
    if any(len(part) > 1 and part[0] != "(" and not _one_factor(part) for part in under):
        return None
    factors = [_product(over)] + [_product(part) for part in under]
    exponents: Counter[str] = Counter()
    size = Fraction(1)
    for index, unit in enumerate(factors):
        if unit is None:
            return None
        sign = -1 if index else 1
        size *= unit.factor**sign
        for name, exponent in unit.dimension:
            exponents[name] += sign * exponent
    found = tuple(sorted((n, e) for n, e in exponents.items() if e))
    return Unit(found, size) if found else None  # "minute/s" is a number, 60


def _split(words: list[str], mark: str) -> list[list[str]]:
    parts: list[list[str]] = [[]]
    for word in words:
        if word == mark:
            parts.append([])
        else:
            parts[-1].append(word)
    return parts


def _one_factor(words: list[str]) -> bool:
    return len(words) == 2 and (words[0].rstrip(".").lower() in _BEFORE or words[1] in _AFTER)


def _product(words: list[str]) -> Unit | None:
    """Known units, one after the other, each perhaps with an exponent."""
    if words[:1] == ["("] and words[-1:] == [")"]:
        words = words[1:-1]
    if not words:
        return None
    exponents: Counter[str] = Counter()
    size, before = Fraction(1), 1
    for index, word in enumerate(words):
        lower = word.rstrip(".").lower()
        if lower in _AFTER and index:
            continue
        if lower in _BEFORE and before == 1:
            before = _BEFORE[lower]
            continue
        mark, _, caret = word.partition("^")
        after = _AFTER.get(words[index + 1].lower(), 1) if index + 1 < len(words) else 1
        unit = _simple(mark)
        if unit is None or (caret and after * before != 1) or caret not in _EXPONENTS:
            return None
        power = int(caret or 1) * after * before
        before = 1
        size *= unit.factor**power
        for name, exponent in unit.dimension:
            exponents[name] += exponent * power
    return Unit(tuple(sorted((n, e) for n, e in exponents.items() if e)), size)


def _simple(text: str) -> Unit | None:
    text = text.rstrip(".").replace("µ", "μ")
    found = _MARKS.get(text) or _SHOUTED.get(text)
    if found is None and len(text) >= 2:
        lower = text.lower()
        found = _NAMES.get(lower) if len(text) >= 3 or text == "hr" else None
        if found is None and len(text) >= 3 and lower.endswith("s"):
            # Symbols take an s only where it is usual: "kgs", "lbs", "hrs"; "ms" is something else.
            found = _NAMES.get(lower[:-1]) or {"kgs": _MARKS["kg"], "lbs": _MARKS["lb"]}.get(lower)
    return found
