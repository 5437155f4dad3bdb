"""The shape of a response: its steps, its answer, and where steps end in the sampled tokens.

    step, blank line, step, blank line, ..., "# Answer", blank line, the answer

A response is text that a policy wrote, so anything may be in it. What always holds: an answer is
taken only from a response that has the heading exactly once and one paragraph after it; nothing is
repaired or guessed. Steps are places in the *sampled* tokens, which are never made again from text.

Axes: S steps of a response, T tokens.
"""

from __future__ import annotations

import bisect
import itertools
import re
from collections.abc import Callable, Sequence

MOST_STEPS = 16

STEP_BREAK = "\n\n"
ANSWER_HEADING = "# Answer"

_HEADING = re.compile(r"^# Answer[ \t\r]*$", re.MULTILINE)
# Whatever a reader could take for a second heading makes the response ambiguous.
_HEADING_LIKE = re.compile(r"#[ \t]*answer\b", re.IGNORECASE)
_BLANK_LINE = re.compile(r"\n[ \t\r]*\n")
_THINKING_BEGINS = re.compile(r"<think(?:ing)?>", re.IGNORECASE)
_THINKING_ENDS = re.compile(r"</think(?:ing)?>", re.IGNORECASE)
_SET_APART = re.compile(r"\n[ \t\r]*\n# Answer[ \t\r]*\n[ \t\r]*\n")
_SPACE = " \t\r\n"
# What decoders write for bytes that are no whole character.
_CUT_CHARACTER = "\ufffd"


def extract_answer(text: str) -> str | None:
    """The answer of a response, or None: the response is `unparsed`.

    None when the heading is missing or occurs twice, when nothing follows it, and when more than
    one paragraph does: which of them is the answer would be a guess.
    """
    text = without_thinking(text)
    heading = _HEADING.search(text)
    if heading is None or len(_HEADING_LIKE.findall(text)) != 1:
        return None
    answer = text[heading.end() :].strip(_SPACE)
    if not answer or _BLANK_LINE.search(answer):
        return None
    return answer


def answer_alone(answer: str) -> str:
    """A response that states an answer and nothing else, which is read as any other."""
    return f"{ANSWER_HEADING}{STEP_BREAK}{answer}"


def has_heading(text: str) -> bool:
    """Does our heading stand in what a response says, once or oftener?"""
    return _HEADING.search(without_thinking(text)) is not None


def without_thinking(text: str) -> str:
    """What a response says once it has thought: after the last closing thinking tag (the opening
    one may stand in the prompt), up to one that is opened and not closed."""
    start = _spoken_from(text)
    begins = _THINKING_BEGINS.search(text, start) if "<" in text else None
    return text[start : None if begins is None else begins.start()]


def _spoken_from(text: str) -> int:
    ends = [tag.end() for tag in _THINKING_ENDS.finditer(text)] if "</" in text else []
    return ends[-1] if ends else 0


def split_steps(text: str) -> list[str]:
    """What stands between blank lines before the answer heading; of all the text without one."""
    pieces = _pieces(without_thinking(text))
    return [piece.strip(_SPACE) for piece in pieces if piece.strip(_SPACE)]


def format_ok(text: str) -> bool:
    """At least one step, then the heading between blank lines, exactly once, and one answer."""
    return (
        extract_answer(text) is not None
        and bool(split_steps(text))
        and _SET_APART.search(without_thinking(text)) is not None
    )


def finished_steps(text: str) -> int:
    """How many steps a response has that a blank line has ended: of its tokens, as many have ends
    (`step_ends`)."""
    return _finished(without_thinking(text))


def step_ends(token_ids_T: Sequence[int], decode: Callable[[Sequence[int]], str]) -> list[int]:
    """For each finished step the number of tokens up to its end.

    A step ends *after* the token whose decoding completes the blank line, so `token_ids_T[:end]` is
    the sampled prefix to continue from (paper section 3), and `token_ids_T[end - 1]` the token that
    carries the step's score. With `format_ok` there is one end for each of `split_steps`; a last
    step that no blank line ends has none.

    Args:
        decode: tokens to text, newlines kept as they are, nothing cleaned up; it is called about
            log2(T) times a step, never on tokens one by one (a character may span several).
    """
    text = decode(token_ids_T)
    finished, start = finished_steps(text), _spoken_from(text)
    ends_S: list[int] = []
    for count in range(1, finished + 1):
        end = bisect.bisect_left(
            range(len(token_ids_T)),
            count,
            lo=ends_S[-1] if ends_S else 0,
            key=lambda n: _finished(decode(token_ids_T[:n])[start:]),
        )
        ends_S.append(end)
    return ends_S


class StepFinder:
    """`step_ends` for many responses of one tokenizer, from their texts and next to no decoding.

    Where the texts of a response's tokens, put together, are its text, a place in the text says
    which token it lies in. Where they are not (a character that spans tokens, a tokenizer that
    treats the first word otherwise), `step_ends` itself is asked. The texts of tokens are kept.
    Safe to share by threads.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._pieces: dict[int, str] = {}

    def ends(self, token_ids_T: Sequence[int], text: str) -> list[int]:
        """What `step_ends` gives. text: what the tokens decode to."""
        for token in token_ids_T:
            if token not in self._pieces:
                self._pieces[token] = self._decode([token])
        pieces_T = [self._pieces[token] for token in token_ids_T]
        if _CUT_CHARACTER in text or "".join(pieces_T) != text:
            return step_ends(token_ids_T, self._decode)
        # The text of the first n tokens is the first places_T[n] characters.
        places_T = list(itertools.accumulate(map(len, pieces_T), initial=0))
        return [bisect.bisect_left(places_T, place) for place in _finishes(text)]


def _finishes(text: str) -> list[int]:
    """Where each step of `text` is finished: the place after its blank line."""
    begin = _spoken_from(text)
    spoken = without_thinking(text)
    heading = _HEADING.search(spoken)
    before = spoken if heading is None else spoken[: heading.start()]
    places, start = [], 0
    for blank in _BLANK_LINE.finditer(before):
        if before[start : blank.start()].strip(_SPACE):
            places.append(begin + blank.end())
        start = blank.end()
    return places


def _finished(text: str) -> int:
    """How many steps of `text` a blank line has ended; grows with the text, never shrinks."""
    return sum(bool(piece.strip(_SPACE)) for piece in _pieces(text)[:-1])


def _pieces(text: str) -> list[str]:
    heading = _HEADING.search(text)
    return _BLANK_LINE.split(text if heading is None else text[: heading.start()])


def merged(ends_S: Sequence[int], most: int = MOST_STEPS) -> tuple[int, ...]:
    """At most `most` ends: adjacent steps are merged into runs of about equal length.

    The last end stays: the last prefix is all of the reasoning.
    """
    count = min(len(ends_S), most)
    return tuple(ends_S[(i + 1) * len(ends_S) // count - 1] for i in range(count))
