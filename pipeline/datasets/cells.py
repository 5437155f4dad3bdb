"""What one cell of a data file says: numbers as text, valid Unicode, and a name for its kind.

A number becomes the decimal text that a person would write: `5` for 5.0, `0.1` for the float32
nearest to it, `0.3` for 0.1 + 0.2. What has no such text gives None, never an approximation of it.
"""

from __future__ import annotations

import math
import re
from decimal import Decimal
from typing import Any

# JSON can spell half of a surrogate pair, which no tokenizer and no file can hold.
_SURROGATE = re.compile("[\ud800-\udfff]")
_KINDS = {
    str: "text",
    bool: "true or false",
    int: "a number",
    float: "a number",
    Decimal: "a number",
    list: "a list",
    dict: "an object",
    bytes: "bytes",
}


def kind_of(value: Any) -> str:
    """How a message calls a value of this type."""
    return _KINDS.get(type(value), f"a {type(value).__name__}")


def is_absent(value: Any) -> bool:
    """Null; or NaN, which is how pandas writes a missing value."""
    return value is None or (isinstance(value, float | Decimal) and math.isnan(value))


def number_text(value: Any) -> str | None:
    """The decimal text of a finite number, without an exponent or zeros at its end; else None.

    A float is read to 15 significant digits: every decimal of so many survives being stored as one,
    and the digits after them (0.30000000000000004) are the storage's, not the author's.
    """
    if type(value) is int:
        return str(value)
    if isinstance(value, float) and math.isfinite(value):
        value = Decimal(repr(value) if value.is_integer() else f"{value:.15g}")
    if not isinstance(value, Decimal) or not value.is_finite():
        return None
    text = format(value, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def invalid_unicode(values: dict[str, Any]) -> list[str]:
    """The columns of a row whose name or text holds half of a surrogate pair."""
    return [name for name, value in values.items() if _is_broken(name) or _is_broken(value)]


def _is_broken(value: Any) -> bool:
    if isinstance(value, str):
        return not value.isascii() and _SURROGATE.search(value) is not None
    if isinstance(value, dict):
        return any(_is_broken(part) for pair in value.items() for part in pair)
    return isinstance(value, list) and any(map(_is_broken, value))
