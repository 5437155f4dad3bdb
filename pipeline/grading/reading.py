"""From a plain text (`answers.plain`) to the form that it states (`forms`).

    text --or, and, commas--> parts --"x ="--> name + value --numeral, unit--> Quantity
                                                    |`--grammar------------> term, interval, ...
                                                    `--words---------------> Text

What always holds: the same text has the same form, and all of the text is in it. What is a list
here is decided before anything is read in it, outside of all brackets.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Literal

from pipeline.grading import regions
from pipeline.grading.answers import is_mathematical, words
from pipeline.grading.forms import (
    REALS,
    Apply,
    Based,
    Expression,
    Form,
    Inequality,
    Named,
    Region,
    Sequence,
    Solutions,
    Text,
    Unreadable,
)
from pipeline.grading.grammar import read_statement
from pipeline.grading.quantities import Quantity, read_quantity
from pipeline.grading.units import CHINESE, Unit, read_unit

# What words never hold.
SIGNS = re.compile(r"[(α-ωΑ-Ω\\√∛∜π∞^=<>≤≥≠≈±+*/×·÷|_°∪∩∈∅{}\[\]%]|\d")
_ANGLE = r"(?:m\s*)?(?:\\(?:measured)?angle(?![A-Za-z])|∠|\\triangle(?![A-Za-z])|△)\s*"
# "x =", "AB =", "m∠ABC =", "area ≈", "f(x) =": the name of a value. The rest must hold no relation.
_NAME = re.compile(
    rf"(?P<name>{_ANGLE}[A-Za-z0-9]{{1,4}}(?:_\{{?\w{{1,3}}\}}?)?"
    r"|[A-Za-z]\s*_?\s*\{?\s*(?:\\triangle|△)\s*[A-Z]{3}\s*\}?"
    r"|(?:m\s+)?\\?[A-Za-zα-ωΑ-Ω]{1,12}\d{0,2}(?:_\{?\w{1,8}\}?)?'*(?:\^\{-1\}|\^-1)?"
    r"(?:\s*\(\s*[A-Za-z]\s*\))?"
    rf"|[{CHINESE}]{{1,8}})?"
    r"\s*(?P<sign>=|≈|\\approx(?![A-Za-z]))\s*(?P<value>[^=<>≈]*)"
)
_WORDED_BASES = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8,
                 "nine": 9, "ten": 10, "twelve": 12, "sixteen": 16}  # fmt: skip
_BASED = re.compile(
    r"\(?\s*(?P<digits>[0-9A-Fa-f]{1,60})\s*\)?\s*"
    r"(?:_\s*\{?\s*(?P<base>\d{1,2}|[a-z]{3,7})\s*\}?|\(?\s*base\s+(?P<spelled>\d{1,2}|[a-z]{3,7})\)?)"
)
_UNIT = re.compile(
    rf"(?<=[\d}})\s°π!])"
    rf"((?:square |sq\.? |cubic |cu\.? )?°?[A-Za-zμΩ{CHINESE}][A-Za-zμΩ ./{CHINESE}]*"
    r"(?:\^\{?-?\d\}?|[²³])?)$"
)
# "5 \\frac{m}{s^2}"
_UNIT_FRACTION = re.compile(
    r"\s*\\frac\s*\{\s*([A-Za-zμ][^{}]*)\}\s*\{\s*([A-Za-zμ](?:[^{}]|\{[^{}]*\})*)\}$"
)
_MOST_UNIT = 40
_REALS = frozenset(["all real numbers", "all reals", "real numbers", "全体实数", "所有实数"])


@lru_cache(maxsize=8192)
def read(text: str) -> Form:
    """The form of a text that is to be mathematical.

    Raises:
        Unreadable: when it is none; `Text` is never returned.
    """
    form = _system(text) or _listed(text)
    if isinstance(form, Sequence):
        return gathered(form)
    return form


@lru_cache(maxsize=8192)
def read_number(text: str) -> Form:
    """The form of a text that is to be a number: a letter after it is a unit, never a variable."""
    form: Form | None = read_quantity(text)
    if form is not None:
        return form
    if "\\frac" in text:
        slashed = _UNIT_FRACTION.sub(r" \1/(\2)", text)
        if slashed != text:
            return read_number(slashed)
    name, value = split_name(text)
    form = read_quantity(value)
    if form is None:
        rest, unit = split_unit(value, product=False)
        if unit is None:
            return read(text)
        form = read(rest)
        if not isinstance(form, Expression) or form.unit is not None:
            raise Unreadable(text)
        form = Expression(form.term, unit)
    return form if name is None else Named(name, form)


def read_item(text: str) -> Form:
    """The form of a text that is no list."""
    text = text.strip()
    quantity = read_quantity(text)
    if quantity is not None and not _is_product(text, quantity):
        return quantity
    name, value = split_name(text)
    if value != text:
        form = read_item(value) if ":" not in value else read_statement(value)
        if isinstance(form, Named | Inequality):
            raise Unreadable(text)
        return form if name is None else Named(name, form)
    based = _based(text)
    if based is not None:
        return based
    if words(text) in _REALS:
        return REALS
    plain, unit = split_unit(text)
    form = _in_degrees(read_statement(plain))
    if unit is None:
        return form
    if not isinstance(form, Expression) or form.unit is not None:
        raise Unreadable(text)
    return Expression(form.term, unit)


def _is_product(text: str, quantity: Quantity) -> bool:
    """Whether a number and its unit may be a product: the m of "3 m" may be a variable."""
    letters = re.fullmatch(r"[^A-Za-z]*([A-Za-z]{1,2})", text.strip())
    if letters is None or quantity.unit is None:
        return False
    return read_unit(letters[1], product=True) is None


def _in_degrees(form: Form) -> Form:
    """ "(2x)°" is an expression whose unit is the degree."""
    if isinstance(form, Expression) and isinstance(form.term, Apply) and form.term.op == "deg":
        return Expression(form.term.args[0], read_unit("°"))
    return form


def split_name(text: str) -> tuple[str | None, str]:
    """The name before "=", in one spelling, and what follows; all of the text without one."""
    match = _NAME.fullmatch(text)
    if match is None or not match["value"].strip():
        return None, text
    name = match["name"]
    return None if name is None else _spelled(name), match["value"]


def _spelled(name: str) -> str:
    angle = re.fullmatch(rf"{_ANGLE}(.*)", name)
    if angle is not None:
        return ("△" if "triangle" in name or "△" in name else "∠") + _turned(angle[1].strip())
    name = re.sub(r"^m\s+", "", name)
    name = re.sub(r"[{}\s]|_(?=\{?\s*\\tri)", "", name).removeprefix("\\")
    name = name.replace("\\triangle", "△")
    return _turned(name)


def _turned(name: str) -> str:
    """AB is BA, and ∠ABC is ∠CBA."""
    if re.fullmatch(r"[A-Z]{2,3}", name):
        return min(name, name[::-1])
    return name


def _based(text: str) -> Based | None:
    match = _BASED.fullmatch(text)
    if match is None:
        return None
    base = match["base"] or match["spelled"]
    number = _WORDED_BASES.get(base) if base.isalpha() else int(base)
    digits = match["digits"]
    if number is None or not (digits[0].isdigit() or (number > 10 and len(digits) > 1)):
        return None
    if not 2 <= number <= 16 or any(int(digit, 16) >= number for digit in digits):
        raise Unreadable(f"{digits} is no numeral in base {base}")
    return Based(int(digits, number), number)


def split_unit(text: str, *, product: bool = True) -> tuple[str, Unit | None]:
    """An expression and the known unit after it: "6√3 cm".

    product: a letter may be a variable, so it is no unit.
    """
    match = _UNIT.search(text, max(0, len(text) - _MOST_UNIT))
    if match is None:
        return text, None
    unit = read_unit(match[1], spaced=False, product=product)
    if unit is not None and unit.noun is not None:
        unit = None
    rest = text[: match.start()].strip()
    return (text, None) if unit is None or not rest else (rest, unit)


# -- lists -------------------------------------------------------------------------------------

_SYSTEM = re.compile(
    r"(?:\\{\s*)?\\begin\s*\{(?P<name>cases|array|aligned)\}(?:\s*\{[clr|\s]+\})?"
    r"(?P<rows>.*)\\end\s*\{(?P=name)\}"
)
_BRACKETS = {"(": ")", "[": "]", "{": "}"}
_OPENING = re.compile(r"\\begin\b|\\[{\\]|[(\[{⟨]|\\langle\b|\\l(?:floor|ceil|brace)\b")
_CLOSING = re.compile(r"\\end\b|\\}|[)\]}⟩]|\\rangle\b|\\r(?:floor|ceil|brace)\b")
_JOINED = re.compile(
    r"\s*[,;、]?\s*(?P<word>(?:(?<![A-Za-z\\])(?:and|or)|\\l?(?:and|or)|\\vee|\\wedge|&)(?![A-Za-z])"
    r"|或者?|且|和|与|及)\s*",
    re.IGNORECASE | re.ASCII,
)
_LOGIC = re.compile(r"\\(?:l(?:and|or)|vee|wedge)(?![A-Za-z])")
_COMMA = re.compile(r"\s*[,、]\s*|\s*\\quad\s*")
_GROUPED = re.compile(r",(?=\d{3}(?!\d))")
_NUMERALS = re.compile(r"[-+]?\d+(?:\.\d+)?(?: [-+]?\d+(?:\.\d+)?)+")


def split_list(text: str) -> tuple[list[str], Literal["", "or", "and"]]:
    """The parts of a list, and the word between the last two ("or", "and", or none).

    Separated by semicolons if there are any, else by commas, "or" and "and", outside of brackets.
    Where some comma has a space after it, one within digits separates thousands.
    """
    places = _outside(text)
    if ";" in text and any(text[place] == ";" for place in places):
        return _cut(text, places, re.compile(r"\s*;\s*"))[0], ""
    parts, joined = _cut(text, places, _JOINED)
    spaced = any(re.match(r"[,、]\s", text[place:]) for place in places)
    split: list[str] = []
    for part in parts:
        inside = _outside(part)
        if spaced:  # "1,234, 0.5"
            inside = {
                p for p in inside if not (_GROUPED.match(part, p) and part[p - 1 : p].isdigit())
            }
        split += _cut(part, inside, _COMMA)[0]
    return split, joined


def _cut(
    text: str, places: set[int], separator: re.Pattern[str]
) -> tuple[list[str], Literal["", "or", "and"]]:
    """The text between separators that lie at `places`; "or" or "and" if one of them says so."""
    parts, start = [], 0
    joined: Literal["", "or", "and"] = ""
    for match in separator.finditer(text):
        if match.end() - len(match[0].lstrip()) not in places:
            continue
        word = match.groupdict().get("word")
        if word is not None:
            joined = "or" if word.lower() in ("or", "\\lor", "\\vee") or word[0] == "或" else "and"
        parts.append(text[start : match.start()].strip())
        start = match.end()
    return [*parts, text[start:].strip()], joined


def _outside(text: str) -> set[int]:
    """The places in a text that no bracket encloses."""
    places, depth, place = set(), 0, 0
    while place < len(text):
        if (opening := _OPENING.match(text, place)) is not None and opening[0] != "\\\\":
            depth, place = depth + 1, opening.end()
        elif (closing := _CLOSING.match(text, place)) is not None:
            depth, place = max(0, depth - 1), closing.end()
        elif opening is not None:
            place = opening.end()
        else:
            if depth == 0:
                places.add(place)
            place += 1
    return places


def _listed(text: str) -> Form:
    quantity = read_quantity(text.strip())
    if quantity is not None and not _is_product(text, quantity):
        return quantity
    parts, joined = split_list(text)
    if len(parts) == 1:
        return read_item(text)
    if not all(parts):
        raise Unreadable("an empty part of a list")
    items = tuple(map(read_item, parts))
    if joined == "and" and all(_is_region(item) for item in items):
        return _combined(items, regions.intersection)
    if _LOGIC.search(text) and not all(isinstance(item, Named | Region) for item in items):
        raise Unreadable("a proposition")
    return Sequence("or" if joined == "or" else "", items)


def _system(text: str) -> Form | None:
    """Equations below each other: \\begin{cases} x = 2 \\\\ y = 3 \\end{cases}."""
    match = _SYSTEM.fullmatch(text)
    rows = [] if match is None else [row.strip(" ,;&") for row in match["rows"].split("\\\\")]
    rows = [row.replace("&", "") for row in rows if row]
    if not rows or not all("=" in row for row in rows):
        return None
    return Sequence("", tuple(map(read_item, rows)))


def read_elements(text: str) -> Sequence | None:
    """The elements of an answer that is a list, of which some may be words; None when one is empty.

    Brackets around all of it do not count, but braces make it a set.
    """
    text = text.strip().replace("\\{", "{").replace("\\}", "}")
    kind: Literal["", "{}", "or"] = "{}" if text.startswith("{") else ""
    if text[:1] in _BRACKETS and text.endswith(_BRACKETS[text[0]]) and _is_enclosed(text):
        text = text[1:-1].strip()
    parts, joined = split_list(text)
    if len(parts) == 1 and _NUMERALS.fullmatch(text):
        parts = text.split(" ")
    if not all(parts):
        return None
    if joined == "or" and not kind:
        kind = "or"
    items: list[Form] = []
    for item in map(read_element, parts):
        items += item.items if isinstance(item, Sequence) and item.kind == "or" else [item]
        if isinstance(item, Sequence) and item.kind == "or" and len(parts) == 1:
            kind = "or"
    return Sequence(kind, tuple(items))


def _is_enclosed(text: str) -> bool:
    """Whether the first bracket is closed by the last sign only: not "(1, 2), (3, 4)"."""
    return not _outside(text)


def read_element(text: str) -> Form:
    """What one element of a list states; words where it is not mathematical."""
    quantity = read_quantity(text)
    if quantity is not None:
        return quantity
    if SIGNS.search(text) or is_mathematical(text):
        try:
            return read_item(text)
        except Unreadable:
            pass
    return Text(text if len(text) == 1 else words(text))  # R is not r


def gathered(listed: Sequence) -> Form:
    """A bare list, or one with "or" or braces: of solutions, regions, or values of one name."""
    items = listed.items
    if listed.kind == "or" and all(_is_region(item) for item in items):
        return _combined(items, regions.union)
    if not any(isinstance(item, Named) for item in items) or listed.kind in ("()", "[]"):
        return Sequence(listed.kind, _flat(listed))
    names = [item.name if isinstance(item, Named) else None for item in items]
    named = tuple(item for item in items if isinstance(item, Named))
    if len(set(names)) == len(items) == len(named):
        return Solutions(named)
    first = names[0]
    if first is None or any(name not in (first, None) for name in names):
        raise Unreadable("names that stand twice")
    # "x = 5 or x = -3", "x = 5, -3"
    values = tuple(item.value if isinstance(item, Named) else item for item in items)
    if any(isinstance(value, Region) for value in values):
        raise Unreadable("conditions without a word between them")
    return Named(first, Sequence("or", _flat(Sequence("or", values))))


def _flat(listed: Sequence) -> tuple[Form, ...]:
    """The items, with both of "±3"."""
    flat: list[Form] = []
    for item in listed.items:
        flat += item.items if isinstance(item, Sequence) and item.kind == "or" else [item]
    return tuple(flat)


def _is_region(item: Form) -> bool:
    value = item.value if isinstance(item, Named) else item
    return isinstance(value, Region)


def _combined(items: tuple[Form, ...], operation: Callable[[Region, Region], Region]) -> Form:
    """Regions with "or" or "and" between them, all of one variable."""
    names = {item.name if isinstance(item, Named) else None for item in items}
    if len(names) > 1:
        raise Unreadable("regions of different variables")
    values = [item.value if isinstance(item, Named) else item for item in items]
    found = functools.reduce(operation, [one for one in values if isinstance(one, Region)])
    (name,) = names
    return found if name is None else Named(name, found)
