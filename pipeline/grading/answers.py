"""An answer as plain text, and what plain text can state without arithmetic: words, yes, no, times.

What always holds: a text is changed only in ways that cannot change what it says (wrappers of
LaTeX, Markdown and HTML, full-width letters, spaces, lead-ins such as "The answer is" or "故选"). A
reading that is not the only one is no reading.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

_CHARACTERS = str.maketrans(
    {0xFF01 + i: 0x21 + i for i in range(94)}  # full-width ASCII
    | dict.fromkeys(map(ord, "\u00a0\u2000\u2001\u2002\u2003\u2004\u2005\u2007\u2008\u2009\u200a"
                             "\u202f\u205f\u3000"), " ")
    | dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff"), "")
    | dict.fromkeys(map(ord, "‐‑‒–—−"), "-")
    | dict.fromkeys(map(ord, "“”„«»"), '"')
    | dict.fromkeys(map(ord, "‘’"), "'")
    # Squared units: ㎝ is "cm", ㎡ is "m2".
    | {code: unicodedata.normalize("NFKC", chr(code)) for code in range(0x3371, 0x33E0)}
    | {ord("⁄"): "/", ord("∕"): "/", ord("º"): "°", ord("。"): ".", ord("∶"): ":", ord("【"): "[",
       ord("】"): "]"}
)  # fmt: skip

_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_TAGS = re.compile(r"[\s$]*<answer>(.*)</answer>[\s$]*", re.DOTALL)
_WRAPPER = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|normal)?|math(?:rm|bf|it|sf|tt|cal)|boldsymbol|mbox|operatorname"
    r"|underline)\s*\{((?:[^{}]|\{[^{}]*\})*)\}"
)
# A backslash that begins a command, not the second of a line break.
_COMMAND = r"(?<!\\)\\"
_REWRITES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"\\\\\s*\[\s*-?[\d.]+\s*(?:pt|em|ex|cm|mm|in)\s*\]"), r"\\\\ "),
    (re.compile(rf"{_COMMAND}[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(rf"{_COMMAND}(?:left|right|displaystyle|rm|[bB]igg?[lrm]?)(?![A-Za-z])"), ""),
    # What stands between the digits of one number: "11,\! 111", "1{,}234", "1\,234".
    (re.compile(r"(?<=\d)(?:,\\!\s*|\{,\}\s*(?:\\!\s*)?|\\,)(?=\d{3}(?!\d))"), ""),
    (re.compile(r"\{,\}"), ","),
    (re.compile(rf"{_COMMAND}!"), ""),
    (re.compile(rf"{_COMMAND}(?:[,;: ]|quad(?![A-Za-z])|qquad(?![A-Za-z]))"), " "),
    (re.compile(r"(?<=\S)\s*~\s*(?=[A-Za-z\\])"), " "),
    (re.compile(r"(?:\{\})?\s*\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z])|\{\s*°\s*\}|°)"
                r"|\s*\\degrees?(?![A-Za-z])|(?<=[\d})])\s*\^\s*(?:\{\s*[oO]\s*\}|[oO](?![A-Za-z]))"),
     "°"),
    (re.compile(rf"{_COMMAND}([%$#&_])"), r"\1"),
    (re.compile(rf"{_COMMAND}[()\[\]]"), " "),
    # Bold and code; "x**2" stays.
    (re.compile(r"(?<![\w)])\*\*|\*\*(?![\w(])|`"), ""),
    (re.compile(r"\s+"), " "),
)  # fmt: skip
_LEAD = re.compile(
    r"(?:(?:so|thus|hence|therefore)\b,?\s*|∴\s*|(?:所以|因此|故)[,:]?\s*)?(?:"
    r"(?:(?:the|my|our)\s+)?(?:(?:final|correct|right|best)\s+)*(?:answer|result|option|choice)\s*"
    r"(?:is\b\s*:?|=|:)"
    r"|(?:本题|正确|最终|最后)*的?(?:答案|选项|结果)(?:应?该?[是为选])?:?"
    r"|(?:本题|应|故|答案)*选择?(?=[:\s(\[]*[A-Za-z](?![A-Za-z])):?"
    r")\s*(?=\S)",
    re.IGNORECASE,
)
_FINAL = " .,;:、"


def plain(text: str) -> str:
    """`text` without wrappers, lead-ins and a final full stop; "" when nothing remains or two boxes
    leave open which is the answer."""
    if text.isascii() and text.isalnum():
        return text
    text = text.translate(_CHARACTERS)
    tagged = _TAGS.fullmatch(text)
    if tagged is not None:
        text = tagged[1]
    if "<answer>" in text or "</answer>" in text:
        return ""
    while _BOX.search(text):
        inner = _boxed(text)
        if inner is None:
            return ""
        text = inner
    text = _without_dollars(text.strip())
    while (unwrapped := _WRAPPER.sub(r"\1", text)) != text:
        text = unwrapped
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    text = text.strip()
    lead = _LEAD.match(text)
    text = text if lead is None else text[lead.end() :]
    text = text.rstrip(_FINAL)
    quoted = (
        len(text) > 2 and text[0] == text[-1] and text[0] in "\"'*" and text.count(text[0]) == 2
    )
    return text[1:-1].strip() if quoted else text


def _without_dollars(text: str) -> str:
    """Without the signs of math mode; one that is left over is a currency's."""
    dollars = len(re.findall(r"(?<!\\)\$", text))
    if dollars % 2 and dollars > 1 and text.startswith("$") and text.endswith("$"):
        return text[1:-1].strip()
    return text if dollars % 2 else re.sub(r"(?<!\\)\$", "", text)


def _boxed(text: str) -> str | None:
    """What is inside the outermost box; None when it is not closed or another follows."""
    match = _BOX.search(text)
    assert match is not None  # the caller has found it
    depth, start = 1, match.end()
    for index in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[index], 0)
        if depth == 0:
            return None if _BOX.search(text, index) else text[start:index]
    return None


_HYPHEN = re.compile(r"(?<=[^\W\d])[-_](?=[^\W\d])")
_ARTICLE = re.compile(r"(?:the|an?)\s+(?=\S)")


def words(text: str) -> str:
    """A plain text for comparing by letters: case, quotes, articles and hyphens do not count."""
    text = _HYPHEN.sub(" ", text).casefold().strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        text = text[1:-1].strip()
    return " ".join(_ARTICLE.sub("", text, count=1).split())


# A word, where it is none of a LaTeX command: a text that holds one is compared as words.
_WORD = re.compile(r"(?<![\\A-Za-z])(?!sqrt|sin|cos|tan|log)[A-Za-z]{3,}|[A-Za-z]{2,} [A-Za-z]{2,}")
_SIGNS = re.compile(r"[\\√π^=<>≤≥+*/×·÷_|]|(?<![A-Za-z])[A-Za-z]\s*-\s*[A-Za-z](?![A-Za-z])")


def is_mathematical(text: str) -> bool:
    """Whether case and hyphens count in a text: R-r is not r-R."""
    return _WORD.search(text) is None and _SIGNS.search(text) is not None


# Case folding of ASCII only: in Unicode the Kelvin sign is a "k".
_FOLD = re.IGNORECASE | re.ASCII

_YES_NO = {"yes": True, "true": True, "no": False, "false": False}
_YES_NO_CHINESE = {
    "是": True, "是的": True, "对": True, "对的": True, "正确": True,
    "否": False, "不是": False, "不对": False, "错": False, "错误": False, "不正确": False,
}  # fmt: skip
_YES_NO_SENTENCE = re.compile(r"(yes|no|true|false)\b(?:\s*[,.;:!-]\s*(.*))?", _FOLD)


def read_yes_no(text: str) -> bool | None:
    """Yes, no, true or false, alone or at the head of a sentence that holds no other of them."""
    text = text.strip("\"' ()!")
    match = _YES_NO_SENTENCE.fullmatch(text)
    if match is None:
        return _YES_NO_CHINESE.get(text)
    said = _YES_NO[match[1].lower()]
    others = {_YES_NO[w] for w in re.findall(r"[a-z]+", (match[2] or "").lower()) if w in _YES_NO}
    return said if others <= {said} else None


@dataclass(frozen=True)
class Time:
    """A time of the day as on a clock. half: "am", "pm", or "" where it is not said."""

    hours: int
    minutes: int
    seconds: int
    half: str


_TIME = re.compile(
    r"(\d{1,2}):([0-5]\d)(?::([0-5]\d))?\s*(?:([ap])\.?\s?m\.?|o'clock)?|(\d{1,2})\s*(?:([ap])\.?\s?m\.?|o'clock)",
    _FOLD,
)


def read_time(text: str) -> Time | None:
    """3:45, 03:45, 3:45 pm, 15:45, 3 pm; None for anything else.

    A time after noon is read on the 24-hour clock, whichever way it is written: 3:45 pm is 15:45.
    """
    match = _TIME.fullmatch(text.strip())
    if match is None:
        return None
    hours, half = int(match[1] or match[5]), (match[4] or match[6] or "").lower()
    if hours > 24 or (half and not 1 <= hours <= 12):
        return None
    if half:
        hours = hours % 12 + (12 if half == "p" else 0)
    known = "pm" if half == "p" or hours > 12 else "am" if half or hours == 0 else ""
    return Time(hours, int(match[2] or 0), int(match[3] or 0), known)
