"""An answer as plain text, and what plain text can state without arithmetic: words, yes, no, lists.

What always holds: a text is changed only in ways that cannot change what it says (LaTeX and
Markdown wrappers, spaces, lead-ins such as "The answer is"). A reading that is not the only one is
no reading.
"""

from __future__ import annotations

import re
from typing import Literal

_CHARACTERS = str.maketrans(
    {0xFF01 + i: 0x21 + i for i in range(94)}  # full-width ASCII
    | dict.fromkeys(map(ord, "\u00a0\u2000\u2001\u2002\u2003\u2004\u2005\u2007\u2008\u2009\u200a"
                             "\u202f\u205f\u3000"), " ")
    | dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff"), "")
    | dict.fromkeys(map(ord, "‐‑‒–—−"), "-")
    | dict.fromkeys(map(ord, "“”„«»"), '"')
    | dict.fromkeys(map(ord, "‘’"), "'")
    | {ord("⁄"): "/", ord("∕"): "/", ord("º"): "°"}
)  # fmt: skip

_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")

_WRAPPER = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|normal)?|math(?:rm|bf|it|sf|tt)|mbox|operatorname)\s*\{([^{}]*)\}"
)

_REWRITES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\(?:left|right|displaystyle)(?![A-Za-z])"), ""),
    (re.compile(r"\{,\}"), ","),
    # A thin space separates thousands; every other one is a space.
    (re.compile(r"(?<=\d)\\,(?=\d{3})"), ","),
    (re.compile(r"\\!"), ""),
    (re.compile(r"\\(?:[,;: ]|quad(?![A-Za-z])|qquad(?![A-Za-z]))"), " "),
    (re.compile(r"\s*\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z]))|\s*\\degrees?(?![A-Za-z])"), "°"),
    (re.compile(r"\\([%$#&_])"), r"\1"),
    (re.compile(r"\\[()\[\]]"), " "),
    # Bold and code; "x**2" stays.
    (re.compile(r"(?<![\w)])\*\*|\*\*(?![\w(])|`"), ""),
    (re.compile(r"\s+"), " "),
)

_LEAD = re.compile(
    r"(?:(?:so|thus|hence|therefore)\b,?\s*)?(?:(?:the|my|our)\s+)?"
    r"(?:(?:final|correct|right|best)\s+)*(?:answer|result|option|choice)\s*"
    r"(?:is\b\s*:?|=|:)\s*(?=\S)",
    re.IGNORECASE,
)


def plain(text: str) -> str:
    """`text` without wrappers, lead-ins and a final full stop; "" when nothing remains or two boxes
    leave open which is the answer."""
    if text.isascii() and text.isalnum():
        return text
    text = text.translate(_CHARACTERS)
    boxes = len(_BOX.findall(text))
    if boxes > 1:
        return ""
    if boxes:
        text = _boxed(text)
    dollars = len(re.findall(r"(?<!\\)\$", text))
    if dollars and dollars % 2 == 0:
        text = re.sub(r"(?<!\\)\$", "", text)
    while (unwrapped := _WRAPPER.sub(r"\1", text)) != text:
        text = unwrapped
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    lead = _LEAD.match(text.lstrip())
    text = text.strip() if lead is None else text.strip()[lead.end() :]
    return text.rstrip(" .,;:")


def _boxed(text: str) -> str:
    """What is inside the only box; "" when it is not closed."""
    match = _BOX.search(text)
    assert match is not None  # the caller has counted it
    depth, start = 1, match.end()
    for index in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[index], 0)
        if depth == 0:
            return text[start:index]
    return ""


_HYPHEN = re.compile(r"(?<=[^\W\d])[-_](?=[^\W\d])")

_ARTICLE = re.compile(r"(?:the|an?)\s+(?=\S)")


def words(text: str) -> str:
    """A plain text for comparing by letters: case, quotes, articles and hyphens do not count."""
    text = _HYPHEN.sub(" ", text).casefold().strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        text = text[1:-1].strip()
    return " ".join(_ARTICLE.sub("", text, count=1).split())


# Case folding of ASCII only: in Unicode the Kelvin sign is a "k".
_FOLD = re.IGNORECASE | re.ASCII

_YES_NO = {"yes": True, "true": True, "no": False, "false": False}

_YES_NO_SENTENCE = re.compile(r"(yes|no|true|false)\b(?:\s*[,.;:!-]\s*(.*))?", _FOLD)


def read_yes_no(text: str) -> bool | None:
    """Yes, no, true or false, alone or at the head of a sentence that holds no other of them."""
    match = _YES_NO_SENTENCE.fullmatch(text.strip("\"' ()!"))
    if match is None:
        return None
    said = _YES_NO[match[1].lower()]
    others = {_YES_NO[w] for w in re.findall(r"[a-z]+", (match[2] or "").lower()) if w in _YES_NO}
    return said if others <= {said} else None


_BRACKETS = {"(": ")", "[": "]", "{": "}"}

_AND = re.compile(r"\s*,?\s+(?:and|&)\s+", _FOLD)

_GROUPED = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")

_NUMERALS = re.compile(r"[-+]?\d+(?:\.\d+)?(?: [-+]?\d+(?:\.\d+)?)+")


def split_list(text: str) -> tuple[list[str], Literal["ordered", "set"]] | None:
    """The elements of a list, and whether braces make it a set; None when one of them is empty.

    Separated by semicolons if there are any, else by commas and "and", else by spaces between
    plain numbers. Where every list comma has a space after it, a comma within digits separates
    thousands.
    """
    text = text.strip().replace("\\{", "{").replace("\\}", "}")
    kind: Literal["ordered", "set"] = "set" if text.startswith("{") else "ordered"
    if text[:1] in _BRACKETS and text.endswith(_BRACKETS[text[0]]) and len(text) > 1:
        text = text[1:-1]
    text = _AND.sub(", ", text.strip())
    if ";" in text:
        elements = text.split(";")
    elif ", " in text:
        elements = _GROUPED.sub("", text).split(",")
    elif "," in text:
        elements = text.split(",")
    else:
        elements = text.split(" ") if _NUMERALS.fullmatch(text) else [text]
    stripped = [element.strip() for element in elements]
    return (stripped, kind) if all(stripped) else None
