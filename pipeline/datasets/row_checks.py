"""From a raw row to the fields of a `Query`: every rule that a row must meet, one place for each.

A row that passes means one thing only. Where two readings are possible (an answer "A" when choice
(B) is the text "A"), the row is refused and told how to say which; nothing is guessed. A `Query`
written back as a row passes again and gives the same `Query`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipeline.datasets.files import split_problem
from pipeline.grading.grade import Gold, check_gold
from pipeline.query import ANSWER_TYPES, LETTERS, AnswerType

COLUMNS = (
    "query_id",
    "images",
    "question",
    "choices",
    "answer",
    "answer_type",
    "unlabelled",
    "source",
    "split",
)

# What other data sets call our columns, where the spelling alone would not lead there.
_ALIASES = {
    "id": "query_id",
    "options": "choices",
    "label": "answer",
    "solution": "answer",
    "gold": "answer",
    "problem": "question",
    "prompt": "question",
    "type": "answer_type",
    "category": "source",
    "dataset": "source",
}

# Image placeholders and turn marks of the usual model families. The prompt puts images where they
# belong by itself; one in the text would ask for an image too many or end the user's turn.
_RESERVED = re.compile(
    r"<\|[^|<>\s]{1,40}\|>"
    r"|</?(?:image|img|video|audio|vision)(?:[ _-]?\w{1,20})?\s*/?>"
    r"|<(?:fake_token_around_image|global-img|row_\d+_col_\d+|end_of_utterance|IMG_CONTEXT)>"
    r"|<(?:start|end)_of_(?:image|turn)>"
    r"|\[/?IMG(?:_[A-Z]+)?\]",
    re.IGNORECASE,
)

# No leading zeros: "007" may be a code that must match as it is written.
_PLAIN_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?")

_SHA = re.compile(r"[0-9a-f]{64}")

_KNOWN = frozenset(COLUMNS)

Note = Callable[[str], None]


@dataclass(frozen=True)
class Draft:
    """The fields of a row that are in order; its images are looked at apart (`image_names`)."""

    query_id: str | None
    question: str
    choices: tuple[str, ...] | None
    answer: str | None
    answer_type: AnswerType
    unlabelled: bool
    source: str
    split: str | None


def is_sha(text: str) -> bool:
    """Is this a sha256 in lower-case hex?"""
    return _SHA.fullmatch(text) is not None


def unknown_columns(values: dict[str, Any]) -> set[str]:
    """The columns of a row that are none of ours."""
    return values.keys() - _KNOWN


def unknown_column(column: str) -> str:
    """The message for a column that is none of ours, with the nearest that is."""
    near = difflib.get_close_matches(column.lower(), COLUMNS, n=1, cutoff=0.6)
    nearest = _ALIASES.get(column.lower(), near[0] if near else None)
    hint = f"did you mean {nearest!r}?" if nearest else f"known are {', '.join(COLUMNS)}"
    return f"unknown column {column!r}; {hint}"


def check_row(values: dict[str, Any], note: Note) -> Draft | None:
    """The fields of a row, or None after its problems went to `note`.

    `values` holds no absent values (`rows.read_rows`). Its images and unknown columns are the
    caller's to look at.
    """
    problems: list[str] = []
    say = problems.append
    question = _question(values, say)
    choices = _choices(values.get("choices"), say)
    unlabelled = _unlabelled(values, say)
    answer = _answer_text(values.get("answer"), say)
    if not answer and not unlabelled and not problems:
        say("no answer; give one, or set unlabelled to true")
    answer_type = _answer_type(values, choices, answer, say)
    gold = _gold(answer, answer_type, choices, say) if answer and answer_type else None
    if gold and answer_type and not unlabelled and not problems:
        # Whatever is wrong with it would come out when the first response is graded, far too late.
        unreadable = check_gold(Gold("", gold, answer_type, choices))
        if unreadable is not None:
            say(unreadable)
    query_id = _text(values, "query_id", say, numbers=True)
    source = _text(values, "source", say)
    split = _split(values, say)
    for problem in problems:
        note(problem)
    if problems or answer_type is None:
        return None
    return Draft(
        query_id=query_id or None,
        question=question,
        choices=choices,
        answer=gold,
        answer_type=answer_type,
        unlabelled=unlabelled,
        source=source or "user",
        split=split,
    )


def _question(values: dict[str, Any], say: Note) -> str:
    question = _text(values, "question", say)
    if question == "":
        say("the question is empty" if "question" in values else "no question")
    _refuse_reserved("question", question, say)
    return question


def _unlabelled(values: dict[str, Any], say: Note) -> bool:
    value = values.get("unlabelled", False)
    if not isinstance(value, bool):
        say(f"unlabelled is {_kind(value)}, not true or false")
    return value is True


def _kind(value: Any) -> str:
    kinds = {str: "text", bool: "true or false", int: "a number", float: "a number"}
    kinds |= {list: "a list", dict: "an object", bytes: "bytes"}
    return kinds.get(type(value), f"a {type(value).__name__}")


def _plain_text(value: str, name: str, say: Note) -> str:
    # JSON can spell half of a surrogate pair, which no tokenizer and no file can hold.
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        say(f"{name} is not valid Unicode text")
        return ""
    return value.strip()


def _text(values: dict[str, Any], name: str, say: Note, numbers: bool = False) -> str:
    value = values.get(name, "")
    if numbers and type(value) is int:
        return str(value)
    if not isinstance(value, str):
        say(f"{name} is {_kind(value)}, not text")
        return ""
    return _plain_text(value, name, say)


def _refuse_reserved(name: str, text: str, say: Note) -> None:
    found = _RESERVED.search(text)
    if found:
        say(
            f"the {name} holds {found[0]!r}, a placeholder or control token; take it out "
            "(images are put before the question by themselves)"
        )


def _choices(value: Any, say: Note) -> tuple[str, ...] | None:
    if value is None or value == []:
        return None
    if not isinstance(value, list):
        say(f"choices is {_kind(value)}, not a list of texts")
        return None
    if not 2 <= len(value) <= len(LETTERS):
        say(f"{len(value)} choices; there are 2 to {len(LETTERS)}, or none")
        return None
    choices = []
    for letter, item in zip(LETTERS, value, strict=False):
        if not isinstance(item, str):
            say(f"choice ({letter}) is {_kind(item)}, not text")
            return None
        text = _plain_text(item, f"choice ({letter})", say)
        if not text or len(text.splitlines()) > 1:
            say(f"choice ({letter}) is {'empty' if not text else 'more than one line'}")
            return None
        _refuse_reserved("choice", text, say)
        choices.append(text)
    lettered = zip(LETTERS, choices, strict=False)
    if len(set(choices)) != len(choices):
        twice = next(text for text in choices if choices.count(text) > 1)
        say(f"two choices are {twice!r}: an answer by text could be either")
    if all(c in t[:2] and re.match(rf"\(?{c}[).:]\s*\S", t) for c, t in lettered):
        say("the choices carry their own letters; give their texts only")
    return tuple(choices)


def _answer_text(value: Any, say: Note) -> str:
    if value is None:
        return ""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return repr(value)
    if not isinstance(value, str):
        say(f"answer is {_kind(value)}; give text or a number, a list as '3, 5, 7'")
        return ""
    answer = _plain_text(value, "answer", say)
    _refuse_reserved("answer", answer, say)
    return answer


def infer_type(choices: tuple[str, ...] | None, answer: str) -> AnswerType | None:
    """The one answer type that fits, or None when the row has to say it."""
    if choices is not None:
        return "letter"
    if answer.lower() in ("yes", "no"):
        return "yes_no"
    return "number" if _PLAIN_NUMBER.fullmatch(answer) else None


def _answer_type(
    values: dict[str, Any], choices: tuple[str, ...] | None, answer: str, say: Note
) -> AnswerType | None:
    known = ", ".join(ANSWER_TYPES)
    if "answer_type" not in values:
        inferred = infer_type(choices, answer)
        if inferred is None and (answer or values.get("unlabelled") is True):
            say(f"no answer_type, and the answer alone does not tell it; give one of {known}")
        return inferred
    value = values["answer_type"]
    for answer_type in ANSWER_TYPES:
        if value == answer_type:
            if choices is not None and answer_type != "letter":
                say(f"answer_type {value!r} with choices; a row with choices is a 'letter'")
            return answer_type
    near = difflib.get_close_matches(str(value), ANSWER_TYPES, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {known}"
    say(f"unknown answer_type {value!r}; {hint}")
    return None


def _gold(
    answer: str, answer_type: AnswerType, choices: tuple[str, ...] | None, say: Note
) -> str | None:
    """The answer in the one form that its type has in a record."""
    if answer_type == "letter":
        return _gold_letter(answer, choices, say)
    if answer_type == "yes_no":
        if answer.lower() not in ("yes", "no"):
            say(f"answer {answer!r} of a yes_no question; write yes or no")
        return answer.lower()
    return answer


def _gold_letter(answer: str, choices: tuple[str, ...] | None, say: Note) -> str | None:
    written = re.fullmatch(r"(\()?([A-Za-z])[).]?", answer)
    by_letter: str | None = written[2].upper() if written else None
    if choices is None:
        if by_letter is None:
            say(f"answer {answer!r} is not a letter, and there are no choices")
        return by_letter
    if by_letter is not None and by_letter not in LETTERS[: len(choices)]:
        by_letter = None
    same = [c for c, text in zip(LETTERS, choices, strict=False) if text == answer] or [
        c for c, text in zip(LETTERS, choices, strict=False) if text.lower() == answer.lower()
    ]
    by_text = same[0] if len(same) == 1 else None
    if by_letter and by_text and by_letter != by_text and not (written and written[1]):
        say(
            f"answer {answer!r} is the letter of one choice and the text of another; "
            f"write '({by_letter})' or '({by_text})'"
        )
    elif not by_letter and not by_text:
        say(f"answer {answer!r} is not among the choices, by letter or by text")
    return by_letter or by_text


def image_names(values: dict[str, Any], say: Note) -> tuple[str, ...] | None:
    """The images of a row as the user wrote them, paths or hashes; None after saying why not."""
    value = values.get("images", [])
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        kind = _kind(value) if not isinstance(value, list) else "a list of something else"
        say(f"images is {kind}, not a list of paths")
        return None
    for item in value:
        if not item or "\0" in item:
            say(f"the image path {item!r} is no path")
            return None
        if "://" in item or item.startswith("data:"):
            say(f"the image {item[:60]!r} is an address; images are files here")
            return None
    return tuple(value)


def _split(values: dict[str, Any], say: Note) -> str | None:
    if "split" not in values:
        return None
    split = _text(values, "split", say)
    problem = split_problem(split)
    if problem and isinstance(values["split"], str):
        say(problem)
    return split
