"""From a raw row to the fields of a `Query`: every rule that a row must meet, one place for each.

A row that passes means one thing only. Where two readings are possible (an answer "A" when choice
(B) is the text "A"), the row is refused and told how to say which; nothing is guessed. A `Query`
written back as a row passes again and gives the same `Query`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.datasets.cells import is_absent, kind_of, number_text
from pipeline.datasets.files import split_problem
from pipeline.datasets.placeholders import asks_about_html, is_picture, placeholder_in
from pipeline.grading.grade import Gold, check_gold, gold_options
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
# No leading zeros: "007" may be a code that must match as it is written.
_PLAIN_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?")
_LONGEST_PATH = 4096
_SHA = re.compile(r"[0-9a-f]{64}")

_KNOWN = frozenset(COLUMNS)

Note = Callable[[str], None]


@dataclass(frozen=True)
class Draft:
    """The fields of a row that are in order; its images are looked at apart (`image_names`).

    doubt: what its answer could mean besides, for a warning.
    """

    query_id: str | None
    question: str
    choices: tuple[str, ...] | None
    answer: str | None
    answer_type: AnswerType
    unlabelled: bool
    source: str
    split: str | None
    doubt: str | None = None


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

    `values` holds no absent values (`files.read_rows`) and valid Unicode. Its images and unknown
    columns are the caller's to look at. What follows from a problem is not noted besides.
    """
    problems: list[str] = []
    say = problems.append
    question = _question(values, say)
    before = len(problems)
    choices = _choices(values.get("choices"), question, say)
    answer = _answer_text(values.get("answer"), choices, say)
    readable = len(problems) == before
    unlabelled = _unlabelled(values, say)
    if not answer and not unlabelled and not problems:
        say("no answer; give one, or set unlabelled to true")
    answer_type = _answer_type(values, choices, answer if readable else None, say)
    gold = _gold(answer, answer_type, choices, say) if readable and answer and answer_type else None
    if gold and answer_type and not unlabelled and not problems:
        _refuse_unreadable(Gold("", gold, answer_type, choices), say)
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
        doubt=_doubt(answer, gold, choices),
    )


def _refuse_unreadable(gold: Gold, say: Note) -> None:
    # Whatever is wrong with it would come out when the first response is graded, far too late.
    unreadable = check_gold(gold)
    if unreadable is not None:
        say(unreadable)


def _question(values: dict[str, Any], say: Note) -> str:
    question = _text(values, "question", say)
    if question == "":
        say("the question is empty" if "question" in values else "no question")
    images = values.get("images")
    html = asks_about_html(question, len(images) if isinstance(images, list) else 0)
    _refuse_placeholder("question", placeholder_in(question, html=html), say)
    return question


def _unlabelled(values: dict[str, Any], say: Note) -> bool:
    value = values.get("unlabelled", False)
    if not isinstance(value, bool):
        say(f"unlabelled is {kind_of(value)}, not true or false")
    return value is True


def _text(values: dict[str, Any], name: str, say: Note, numbers: bool = False) -> str:
    value = values.get(name, "")
    if numbers and (number := number_text(value)) is not None:
        return number
    if not isinstance(value, str):
        say(f"{name} is {kind_of(value)}, not text")
        return ""
    return value.strip()


def _refuse_placeholder(name: str, found: str | None, say: Note) -> None:
    if found is not None:
        say(
            f"the {name} holds {found!r}, a placeholder or control token; take it out "
            "(images are put before the question by themselves), or write it in backticks where "
            "the tag itself is meant"
        )


def _choices(value: Any, question: str, say: Note) -> tuple[str, ...] | None:
    items = _unpadded(value, say)
    if not items:
        return None
    if not 2 <= len(items) <= len(LETTERS):
        padded = len(items) == 1 < len(value)
        few = f"{len(items)} choices; there are 2 to {len(LETTERS)}, or none"
        say("choice (B) is empty" if padded else few)
        return None
    texts = [item.strip() if isinstance(item, str) else number_text(item) for item in items]
    if any(text is not None and is_picture(text) for text in texts):
        say("its choices are pictures, as in MMMU, which are not supported; leave the row out")
        return None
    choices = []
    html = asks_about_html(question, 0)
    for letter, item, text in zip(LETTERS, items, texts, strict=False):
        if text is None and not is_absent(item):
            say(f"choice ({letter}) is {kind_of(item)}, not text or a number")
            return None
        if not text or len(text.splitlines()) > 1:
            say(f"choice ({letter}) is {'empty' if not text else 'more than one line'}")
            return None
        _refuse_placeholder("choice", placeholder_in(text, html=html), say)
        choices.append(text)
    lettered = zip(LETTERS, choices, strict=False)
    if all(c in t[:2] and re.match(rf"\(?{c}[).:]\s*\S", t) for c, t in lettered):
        say("the choices carry their own letters; give their texts only")
    return tuple(choices)


def _unpadded(value: Any, say: Note) -> list[Any]:
    """The choices without the nulls and empty texts that fill a list up to a fixed length."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return []
    if not isinstance(value, list):
        spelled = isinstance(value, str) and value.strip().startswith("[")
        hint = " (it spells one, as MMMU does; ast.literal_eval reads it)" if spelled else ""
        say(f"choices is {kind_of(value)}, not a list of texts{hint}")
        return []
    items = list(value)
    while items and (
        is_absent(items[-1]) or (isinstance(items[-1], str) and not items[-1].strip())
    ):
        items.pop()
    return items


def _answer_text(value: Any, choices: tuple[str, ...] | None, say: Note) -> str:
    if value is None:
        return ""
    number = number_text(value)
    if number is not None:
        return number
    if isinstance(value, list) and choices is not None:
        say(f"answer {value!r} is a list of choices{_MULTI_SELECT}")
        return ""
    if not isinstance(value, str):
        infinite = "infinite" if kind_of(value) == "a number" else kind_of(value)
        say(f"answer is {infinite}; give text or a number, a list as '3, 5, 7'")
        return ""
    answer = value.strip()
    _refuse_placeholder("answer", placeholder_in(answer, html=True), say)
    return answer


_MULTI_SELECT = (
    ": questions with several correct choices (multi-select) are not supported; leave the row out"
)


def infer_type(choices: tuple[str, ...] | None, answer: str) -> AnswerType | None:
    """The one answer type that fits, or None when the row has to say it."""
    if choices is not None:
        return "letter"
    if answer.lower() in ("yes", "no"):
        return "yes_no"
    return "number" if _PLAIN_NUMBER.fullmatch(answer) else None


def _answer_type(
    values: dict[str, Any], choices: tuple[str, ...] | None, answer: str | None, say: Note
) -> AnswerType | None:
    """answer: None where it, or its choices, cannot be read, which has been said."""
    known = ", ".join(ANSWER_TYPES)
    if "answer_type" not in values:
        if answer is None:
            return None
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
    by_text = _letters_by_text(answer, choices)
    if by_letter and by_text and by_letter not in by_text and not (written and written[1]):
        say(
            f"answer {answer!r} is the letter of one choice and the text of another; "
            f"write '({by_letter})' or '({by_text[0]})'"
        )
    if by_letter or len(by_text) == 1:
        return by_letter or by_text[0]
    say(_no_one_choice(answer, by_text, choices))
    return None


def _letters_by_text(answer: str, choices: tuple[str, ...]) -> list[str]:
    """The letters of the choices that an answer names: verbatim, else as the grader reads it."""
    lettered = list(zip(LETTERS, choices, strict=False))
    verbatim = [letter for letter, text in lettered if text == answer]
    return verbatim or [LETTERS[index] for index in sorted(gold_options(answer, choices))]


def _no_one_choice(answer: str, by_text: Sequence[str], choices: tuple[str, ...]) -> str:
    if by_text:
        both = f"({by_text[0]}) and ({by_text[1]})"
        text = choices[LETTERS.index(by_text[0])]
        return f"two choices are {text!r} as the grader reads them, {both}: answer by letter"
    if _names_several(answer, choices):
        return f"answer {answer!r} names several choices{_MULTI_SELECT}"
    index = _index_in(answer, choices)
    hint = (
        ""
        if index is None
        else f"; if it is an index counted from 0, as in ScienceQA, write the letter {index!r}"
    )
    return f"answer {answer!r} is not among the choices, by letter or by text{hint}"


def _names_several(answer: str, choices: tuple[str, ...]) -> bool:
    """Two or more letters ("A, C", "A and C", "ACD"), or as many texts of choices."""
    letters = LETTERS[: len(choices)]
    tokens = re.sub(r"\band\b|[和与及]|\W+", " ", answer).split()
    if len(tokens) == 1:
        tokens = list(answer)
    if len(set(tokens)) == len(tokens) > 1 and all(token in letters for token in tokens):
        return True
    texts = {choice.lower() for choice in choices}
    parts = [part.strip().lower() for part in re.split(r"[,;、，；]|\band\b", answer)]
    return len(parts) > 1 and all(part in texts for part in parts)


def _index_in(answer: str, choices: tuple[str, ...]) -> str | None:
    """The letter of the choice that an answer would be as an index counted from 0, or None."""
    if not re.fullmatch(r"0|[1-9]\d?", answer) or int(answer) >= len(choices):
        return None
    return LETTERS[int(answer)]


def _doubt(answer: str, gold: str | None, choices: tuple[str, ...] | None) -> str | None:
    index = _index_in(answer, choices) if choices is not None else None
    if index is None or gold in (None, index):
        return None
    return (
        "the answer is the text of one choice and the index, counted from 0, of another; it is "
        "read as the text, so write the letter if an index is meant, as in ScienceQA"
    )


def image_names(values: dict[str, Any], say: Note) -> tuple[str, ...] | None:
    """The images of a row as the user wrote them, paths or hashes; None after saying why not."""
    value = values.get("images", [])
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        kind = kind_of(value) if not isinstance(value, list) else "a list of something else"
        say(f"images is {kind}, not a list of paths")
        return None
    for item in value:
        if not item or "\0" in item:
            say(f"the image path {item!r} is no path")
            return None
        if "://" in item or item.startswith("data:"):
            say(f"the image {item[:60]!r} is an address; images are files here")
            return None
        if len(item) > _LONGEST_PATH:
            say(
                f"the image {item[:60]!r}… is no path; pictures in base64 have to be saved as files"
            )
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
