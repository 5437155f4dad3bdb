"""Units as they follow a number: what they measure, and how many base units they are.

What always holds: the same unit in any spelling reads as the same `Unit`, units of one dimension
differ only by an exact factor, and an unknown noun ("apples") is a dimension of its own, equal to
itself only. A text that is not plainly a unit is not read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

CURRENCIES = "$€£¥₹"

# Case folding of ASCII only: in Unicode the Kelvin sign is a "k".
_FOLD = re.IGNORECASE | re.ASCII


@dataclass(frozen=True)
class Unit:
    """dimension: what is measured ("length^2", "word:apple"), "" for bare "units"; factor: exact,
    base units in one of these."""

    dimension: str
    factor: Fraction = Fraction(1)


# dimension: (spellings, base units in one). Symbols keep their case; names of three letters or
# more are read in any.
_TABLE: dict[str, list[tuple[str, str]]] = {
    "length": [
        ("m meter meters metre metres", "1"),
        ("km kilometer kilometers kilometre kilometres", "1000"),
        ("dm decimeter decimeters decimetre decimetres", "1/10"),
        ("cm centimeter centimeters centimetre centimetres", "1/100"),
        ("mm millimeter millimeters millimetre millimetres", "1/1000"),
        ("μm µm micrometer micrometers micrometre micrometres", "1/1000000"),
        ("in inch inches", "254/10000"),
        ("ft foot feet", "3048/10000"),
        ("yd yard yards", "9144/10000"),
        ("mi mile miles", "1609344/1000"),
    ],
    "mass": [
        ("g gram grams", "1"),
        ("kg kilogram kilograms kgs", "1000"),
        ("mg milligram milligrams", "1/1000"),
        ("lb lbs pound pounds", "45359237/100000"),
        ("oz ounce ounces", "45359237/1600000"),
        ("ton tons tonne tonnes", "1000000"),
    ],
    "time": [
        ("s sec secs second seconds", "1"),
        ("ms millisecond milliseconds", "1/1000"),
        ("min mins minute minutes", "60"),
        ("h hr hrs hour hours", "3600"),
        ("day days", "86400"),
        ("week weeks", "604800"),
    ],
    "volume": [
        ("l L liter liters litre litres", "1"),
        ("ml mL milliliter milliliters millilitre millilitres", "1/1000"),
    ],
    "angle": [("° deg degree degrees", "1")],
    "radians": [("rad rads radian radians", "1")],
    "celsius": [("°C ℃ celsius", "1")],
    "fahrenheit": [("°F ℉ fahrenheit", "1")],
    "kelvin": [("kelvin kelvins", "1")],
    "dollars": [("$ dollar dollars usd", "1"), ("¢ cent cents", "1/100")],
    "euros": [("€ euro euros eur", "1")],
    "pounds sterling": [("£ gbp", "1")],
    "yen": [("¥ yen", "1")],
    "rupees": [("₹ rupee rupees rs Rs", "1")],
    "force": [("N newton newtons", "1"), ("kN", "1000")],
    "energy": [("J joule joules", "1"), ("kJ kilojoule kilojoules", "1000")],
    "power": [("W watt watts", "1"), ("kW kilowatt kilowatts", "1000")],
    "voltage": [("V volt volts", "1"), ("mV", "1/1000"), ("kV", "1000")],
    "current": [("amp amps ampere amperes", "1"), ("mA", "1/1000")],
    "resistance": [("Ω ohm ohms", "1"), ("kΩ", "1000")],
    "pressure": [("Pa pascal pascals", "1"), ("kPa", "1000")],
    "frequency": [("Hz hertz", "1"), ("kHz", "1000"), ("MHz", "1000000")],
    "amount": [("mol mole moles", "1")],
    "": [("unit units", "1")],
}

_UNITS: dict[str, Unit] = {
    spelling: Unit(dimension, Fraction(factor))
    for dimension, rows in _TABLE.items()
    for spellings, factor in rows
    for spelling in spellings.split()
}

_SPEEDS = {"mph": "mi/h", "kph": "km/h", "kmh": "km/h", "kmph": "km/h", "fps": "ft/s"}

_BEFORE = re.compile(r"(?P<power>square|sq\.?|cubic|cu\.?)\s+(?P<base>.+)", _FOLD)

_AFTER = re.compile(
    r"(?P<base>[^\d^{]*[^\s\d^{])(?:\s*\^\s*\{?(?P<caret>[23])\}?|(?P<raised>[²³])"
    r"|\s(?P<word>squared|cubed)|(?P<digit>[23]))",
    _FOLD,
)

_POWERS = {"2": 2, "²": 2, "3": 3, "³": 3, "squared": 2, "cubed": 3}

_DEGREES = re.compile(r"(?:°|deg\.?|degrees?)\s*(?P<scale>c|f|celsius|fahrenheit)", _FOLD)

# One to three words. What changes the number, or joins a second statement to it, is no unit.
_NOUN = re.compile(r"[A-Za-z][A-Za-z'’-]+(?: [A-Za-z][A-Za-z'’-]+){0,2}")

_NOT_NOUNS = """
    and or nor not no none never but to than then from of is are was isn't plus minus times over
    divided multiplied by power point squared cubed root half halves third thirds quarter quarters
    dozen dozens more less fewer at least most per if yes true false with without except either
    neither hundred thousand million billion trillion percent percentage percents bn mn
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
    sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety
    """

_EXCLUDED = frozenset(_NOT_NOUNS.split())


def read_unit(text: str, *, spaced: bool = True) -> Unit | None:
    """The unit that `text` names, or None.

    Args:
        spaced: whether a space stood between number and unit. A known unit may be attached
            ("12cm"); of unknown nouns only a separate word is one, never a letter ("12x").
    """
    text = text.strip().rstrip(".")
    known = _compound(_SPEEDS.get(text.lower(), text))
    if known is not None:
        return known
    if not spaced or not _NOUN.fullmatch(text):
        return None
    words = text.lower().replace("’", "'").split()
    if _EXCLUDED.intersection(part for word in words for part in [word, *word.split("-")]):
        return None
    return Unit("word:" + " ".join(_singular(word) for word in words))


def _singular(word: str) -> str:
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word


def _compound(text: str) -> Unit | None:
    """A known unit, or one over another: "m/s", "miles per hour"."""
    over, *under = re.split(r"\s*/\s*|\s+per\s+", text)
    if len(under) > 1:
        return None
    unit = _powered(over)
    if unit is None or not under:
        return unit
    divisor = _powered(under[0])
    if divisor is None or not unit.dimension or not divisor.dimension:
        return None
    return Unit(f"{unit.dimension}/{divisor.dimension}", unit.factor / divisor.factor)


def _powered(text: str) -> Unit | None:
    """A known unit, perhaps squared or cubed: "cm^2", "square cm", "m³"."""
    text = text.strip()
    simple = _simple(text)
    if simple is not None:
        return simple
    if (match := _BEFORE.fullmatch(text)) is not None:
        power = 2 if match["power"].lower().startswith("s") else 3
    elif (match := _AFTER.fullmatch(text)) is not None:
        power = _POWERS[(match["caret"] or match["raised"] or match["word"] or match["digit"])
                        .lower()]  # fmt: skip
    else:
        return None
    base = _simple(match["base"].strip())
    if base is None or base.dimension not in ("length", "time", ""):
        return None
    return Unit(base.dimension and f"{base.dimension}^{power}", base.factor**power)


def _simple(text: str) -> Unit | None:
    text = text.rstrip(".")
    if (match := _DEGREES.fullmatch(text)) is not None:
        return Unit("celsius" if match["scale"].lower().startswith("c") else "fahrenheit")
    known = _UNITS.get(text)
    if known is None and (len(text) >= 3 or text in ("CM", "KM", "KG", "LB", "FT", "IN")):
        known = _UNITS.get(text.lower())
    return known
