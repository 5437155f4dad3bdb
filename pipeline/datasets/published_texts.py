"""From the texts of published data to question, choices, answer and answer type.

Prompts that ask for an answer's form ("Hint: …"), image placeholders and choices inside a question
are taken out of it, so that a question is a question; how it is asked is the run's decision.
"""

from __future__ import annotations

import re
from typing import Any

from pipeline.datasets.published_form import Unusable
from pipeline.grading.grade import Gold, check_gold
from pipeline.query import LETTERS, AnswerType
from pipeline.responses import extract_answer

# -- placeholders ------------------------------------------------------------------------------

_PLACEHOLDER = re.compile(r"<image(?:[ _]?(\d+))?>", re.IGNORECASE)
_LINE_START = re.compile(r"(?:^|\n)\s*$")


def without_placeholders(text: str, n_images: int) -> str:
    """A question without its image placeholders.

    One at the start or end, or on a line of its own, goes; one inside a sentence becomes "image 2".

    Raises:
        Unusable: the text speaks of more images than there are, or of fewer by plain placeholders.
    """
    found = list(_PLACEHOLDER.finditer(text))
    plain = sum(match[1] is None for match in found)
    highest = max((int(match[1]) for match in found if match[1]), default=0)
    if highest > n_images or plain > n_images:
        raise Unusable(f"the question has {max(plain, highest)} image placeholders, and there are "
                       f"{n_images} images")  # fmt: skip
    pieces, at, count = [], 0, 0
    for match in found:
        before = text[at : match.start()]
        pieces.append(before)
        count += match[1] is None
        if not _set_apart(text, match):
            pieces.append(f"image {match[1] or count}" if n_images > 1 else "image")
        at = match.end()
    return "".join([*pieces, text[at:]]).strip()


def _set_apart(text: str, match: re.Match[str]) -> bool:
    """Whether a placeholder stands where a picture would: at an end, or on a line of its own."""
    before = _PLACEHOLDER.sub("", text[: match.start()])
    after = _PLACEHOLDER.sub("", text[match.end() :])
    alone = _LINE_START.search(before) is not None and (not after.strip(" ") or after[:1] == "\n")
    return not before.strip() or not after.strip() or alone


# -- the prompt around a question --------------------------------------------------------------

_HINT = re.compile(r"^\s*Hint:\s*(?P<hint>[^\n]*)\n+\s*Question:\s*", re.IGNORECASE)
_QUESTION = re.compile(r"^\s*(?:#+\s*)?Question:\s*", re.IGNORECASE)
_PLACES = re.compile(r"(one|two|three|1|2|3) decimal place", re.IGNORECASE)
_DIGITS = {"one": "1", "two": "2", "three": "3"}
_REQUESTS = re.compile(
    r"\s*(?:Answer the question using a single word or phrase\.?"
    r"|Answer with the option's letter from the given choices directly\.?"
    r"|Please answer directly with only the letter of the correct option and nothing else\.?"
    r"|Solution:)\s*$",
    re.IGNORECASE,
)


def bare_question(text: str) -> str:
    """A question without "Hint: …", "Question:" and a request for a short answer.

    The decimal places that a hint asks for are part of what is asked: they stay, at its end.
    """
    hint = _HINT.match(text)
    places = _PLACES.search(hint["hint"]) if hint else None
    text = text[hint.end() :] if hint else _QUESTION.sub("", text, count=1)
    text = _REQUESTS.sub("", text).strip()
    if places is None:
        return text
    return f"{text} ({to_places(_DIGITS.get(places[1].lower(), places[1]))})"


def to_places(count: str | int) -> str:
    """How a question asks for decimal places."""
    return f"to {count} decimal place{'' if str(count) == '1' else 's'}"


# -- choices inside the question ---------------------------------------------------------------

_HEADER = re.compile(r"(?:^|\n)\s*(?:Choices|Options|选项)\s*[:：]\s*", re.IGNORECASE)
_LABEL = r"(?:\(([A-Z])\)|([A-Z])\s*[.:、)．：])\s*"
_OPTION_LINE = re.compile(rf"^[ \t]*{_LABEL}(\S.*?)[ \t]*$")
_IN_LINE = re.compile(r"(?:^|[\s,;，；])(?:\(([A-Z])\)|([A-Z])[.:：])\s*")


def split_choices(text: str) -> tuple[str, list[str] | None]:
    """A question and its choices, where they are written at its end; None when they are not.

    As lines ("(A) …", "A. …", "A: …"), or behind "Options:" on one line. Letters must be A, B, C …
    """
    header = _HEADER.search(text)
    lines = text.rstrip().splitlines()
    first = len(lines)
    while first and _OPTION_LINE.match(lines[first - 1]):
        first -= 1
    options = [_OPTION_LINE.match(line) for line in lines[first:]]
    letters = [match[1] or match[2] for match in options if match]
    if len(letters) > 1 and letters == list(LETTERS[: len(letters)]):
        question = "\n".join(lines[:first])
        stem = re.sub(r"\s*(?:Choices|Options|选项)\s*[:：]\s*$", "", question, flags=re.IGNORECASE)
        if stem.strip():
            return stem.strip(), [match[3] for match in options if match]
    if header is not None and text[: header.start()].strip():
        parts = _IN_LINE.split(" " + text[header.end() :])
        letters = [a or b for a, b in zip(parts[1::3], parts[2::3], strict=True)]
        if len(letters) > 1 and letters == list(LETTERS[: len(letters)]):
            return text[: header.start()].strip(), [part.strip(" ,;，；\n") for part in parts[3::3]]
    return text.strip(), None


# -- answers -----------------------------------------------------------------------------------

_SAYS = r"(?:the\s+(?:final\s+)?answer\s+is\b\s*:?|(?:final\s+)?answer\s*:)\s*"
_LEAD = re.compile(rf"^{_SAYS}", re.IGNORECASE)
_LAST = re.compile(rf"(?:^|\n)\s*(?:#+\s*)?{_SAYS}(\S[^\n]*)\s*$", re.IGNORECASE)
_CONCLUSION = re.compile(r"<CONCLUSION>(.*?)</CONCLUSION>", re.DOTALL)
_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_BOXED = re.compile(r"\s*\$*\s*\\boxed\s*\{(.*)\}\s*\$*\.?\s*", re.DOTALL)
_LETTER = re.compile(r"\(?([A-Z])\)?\.?")
_HAS_OPTIONS = re.compile(r"(?:^|\s)\(?B[).:、．]\s*\S")


def final_answer(reply: str) -> str:
    """The answer in a reference reply: below our heading, in a conclusion's tags, after "The answer
    is", or all of one line.

    Raises:
        Unusable: it cannot be told.
    """
    text = extract_answer(reply) or reply.strip()
    for tags in (_CONCLUSION, _TAGGED):
        if (match := tags.search(text)) is not None:
            text = match[1].strip()
    if "\n" in text:
        last = _LAST.search(text)
        if last is None:
            raise Unusable(f"its reply has several lines and none says the answer: {text[-80:]!r}")
        text = last[1]
    text = unboxed(_LEAD.sub("", text.strip()).strip())
    return text[:-1].strip() if text.endswith(".") and not text[:-1].endswith(".") else text


def unboxed(text: str) -> str:
    r"""A text without the `\boxed{}` around all of it."""
    match = _BOXED.fullmatch(text)
    return match[1].strip() if match is not None and _balanced(match[1]) else text


def _balanced(text: str) -> bool:
    depth = 0
    for character in text:
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth < 0:
            return False
    return depth == 0


def asked(question: str, choices: list[str] | None, answer: str) -> dict[str, Any]:
    """The columns question, choices, answer and answer_type.

    Choices that stand in the question's text are taken out of it. An empty answer is a hidden one:
    the row is unlabelled.
    """
    if choices is None:
        question, choices = split_choices(question)
    row: dict[str, Any] = {"question": question, "choices": choices or None, "answer": answer}
    row["answer_type"] = answer_type(answer, choices, question)
    if not answer:
        row |= {"answer": None, "unlabelled": True}
    return {name: value for name, value in row.items() if value is not None}


def answer_type(answer: str, choices: list[str] | None, question: str) -> AnswerType:
    """What grades an answer of which the data say nothing: the first type that reads it."""
    if choices:
        return "letter"
    if _LETTER.fullmatch(answer) and _HAS_OPTIONS.search(question):
        return "letter"
    if answer.lower() in ("yes", "no"):
        return "yes_no"
    kinds: tuple[AnswerType, ...] = ("number", "expression")
    for kind in kinds:
        if answer and not answer.isalpha() and check_gold(Gold("", answer, kind)) is None:
            return kind
    return "word"
