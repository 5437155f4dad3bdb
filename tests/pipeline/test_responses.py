"""Responses: what counts as an answer, and where steps end in the sampled tokens."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from pipeline.responses import (
    StepFinder,
    extract_answer,
    finished_steps,
    format_ok,
    split_steps,
    step_ends,
)

GOOD = "The left digit is 3.\n\nThe right one is 4.\n\n# Answer\n\n7"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (GOOD, "7"),
        ("A step.\n\n# Answer\n\n  7 \n\n", "7"),
        ("# Answer\n\n7", "7"),
        ("A step.\n# Answer\n7", "7"),
        ("A step.\r\n\r\n# Answer\r\n\r\n7\r\n", "7"),
        ("A step.\n\n# Answer\n\n3,\n4", "3,\n4"),
        # no answer
        ("", None),
        ("The answer is 7", None),
        ("A step.\n\n# Answer", None),
        ("A step.\n\n# Answer\n\n \n", None),
        # another heading
        ("A step.\n\n## Answer\n\n7", None),
        ("A step.\n\n# Answers\n\n7", None),
        ("A step.\n\n# Answer: 7", None),
        ("A step. # Answer\n\n7", None),
        # the heading twice, and what looks like it
        ("A step.\n\n# Answer\n\n7\n\n# Answer\n\n7", None),
        ("# Answer\n\n8\n\n# Answer\n\n7", None),
        ("So the # Answer is near.\n\n# Answer\n\n7", None),
        ("A step.\n\n# Answer\n\n7 # answer", None),
        ("A step.\n\n#Answer\n\n# Answer\n\n7", None),
        # which paragraph?
        ("A step.\n\n# Answer\n\n7\n\nor rather 8", None),
    ],
)
def test_extract_answer(text: str, answer: str | None) -> None:
    assert extract_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "ok"),
    [
        (GOOD, True),
        (GOOD + "\n", True),
        ("A step.\n\n# Answer\n\n7", True),
        ("# Answer\n\n7", False),
        ("\n\n# Answer\n\n7", False),
        ("A step.\n# Answer\n\n7", False),
        ("A step.\n\n# Answer\n7", False),
        ("A step.\n\n# Answer\n\n7\n\n# Answer\n\n7", False),
        ("A step.\n\n# Answer\n\n", False),
        ("A step.", False),
    ],
)
def test_format_ok(text: str, ok: bool) -> None:
    assert format_ok(text) is ok


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        (GOOD, ["The left digit is 3.", "The right one is 4."]),
        ("One.\nStill one.\n\nTwo.\n\n# Answer\n\n7", ["One.\nStill one.", "Two."]),
        ("\n\nOne.\n\n\n\n \n\nTwo.\n\n\n# Answer\n\n7", ["One.", "Two."]),
        ("One.\n \nTwo.\n\n# Answer\n\n7\n\nThree.", ["One.", "Two."]),
        ("One.\n\nTwo.", ["One.", "Two."]),
        ("# Answer\n\n7", []),
        ("", []),
    ],
)
def test_split_steps(text: str, steps: list[str]) -> None:
    assert split_steps(text) == steps


class Bytes:
    """A tokenizer whose tokens are pieces of the text's bytes, characters cut in two or not."""

    def __init__(self, text: str, cuts: Sequence[int]) -> None:
        data = text.encode()
        places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
        self.pieces = [data[a:b] for a, b in itertools.pairwise(places)]
        self.ids = list(range(len(self.pieces)))
        self.decoded = 0

    def decode(self, token_ids: Sequence[int]) -> str:
        self.decoded += 1
        return b"".join(self.pieces[i] for i in token_ids).decode(errors="replace")


def test_a_step_ends_after_the_token_that_completes_the_blank_line() -> None:
    tokens = ["One", ".", "\n\n", "Two", ".\n", "\nThree", "\n", "\n# Answer", "\n\n", "7", "<end>"]
    ends = step_ends(range(len(tokens)), lambda ids: "".join(tokens[i] for i in ids))
    assert ends == [3, 6, 8]
    assert ["".join(tokens[:end]) for end in ends] == [
        "One.\n\n",
        "One.\n\nTwo.\n\nThree",
        "One.\n\nTwo.\n\nThree\n\n# Answer",
    ]


def test_a_step_that_is_not_finished_has_no_end() -> None:
    tokens = ["One.", "\n\n", "Two", " and"]
    assert step_ends(range(4), lambda ids: "".join(tokens[i] for i in ids)) == [2]
    assert step_ends([], lambda ids: "") == []


def test_blank_lines_alone_are_no_step() -> None:
    tokens = ["\n\n", "\n", "One.", "\n\n", "\n\n", "# Answer\n\n", "7"]
    assert step_ends(range(7), lambda ids: "".join(tokens[i] for i in ids)) == [4]


# Words with characters of one to four bytes, and what could be mistaken for structure.
PIECES = st.sampled_from(
    ["3 + 4 = 7", "größer", "三", "👍", "\n", "\n\n", " ", "#", "# Answer", "."]
)
CUTS = st.lists(st.integers(0, 10_000), max_size=60)


@given(st.lists(PIECES, max_size=12), CUTS)
def test_ends_follow_the_text_wherever_tokens_are_cut(pieces: list[str], cuts: list[int]) -> None:
    text = "".join(pieces)
    tokens = Bytes(text, cuts)
    ends = step_ends(tokens.ids, tokens.decode)
    assert len(ends) <= len(split_steps(text))
    assert ends == sorted(ends)
    for number, end in enumerate(ends, start=1):
        # The prefix holds this step, ended by a blank line, and without its last token it does not.
        assert step_ends(tokens.ids[:end], tokens.decode)[:number] == ends[:number]
        assert len(step_ends(tokens.ids[: end - 1], tokens.decode)) < number


STEP = st.lists(
    st.sampled_from(["the left", "größer", "三", "👍 is", "7.", "a\nb"]), min_size=1
).map(" ".join)


@given(st.lists(STEP, min_size=1, max_size=6), st.sampled_from(["\n\n", "\n\n\n", "\n \n"]), CUTS)
def test_a_well_formed_response_has_an_end_for_each_step(
    steps: list[str], between: str, cuts: list[int]
) -> None:
    text = between.join([*steps, "# Answer"]) + "\n\n7"
    tokens = Bytes(text, cuts)
    assert format_ok(text)
    assert split_steps(text) == steps
    ends = step_ends(tokens.ids, tokens.decode)
    assert len(ends) == len(steps)
    for number, end in enumerate(ends, start=1):
        said = tokens.decode(tokens.ids[:end])
        assert split_steps(re.split("# ?A?n?s?w?e?r?", said)[0])[:number] == steps[:number]


def test_finding_ends_decodes_a_few_times_a_step_not_once_a_token() -> None:
    text = "\n\n".join(["A step of some length."] * 8) + "\n\n# Answer\n\n7"
    tokens = Bytes(text, range(len(text)))
    assert len(tokens.ids) > 180
    assert len(step_ends(tokens.ids, tokens.decode)) == 8
    assert tokens.decoded < 8 * 10


@given(st.lists(st.lists(PIECES, max_size=12), max_size=3), CUTS)
def test_a_finder_gives_the_same_ends_wherever_tokens_are_cut(
    responses: list[list[str]], cuts: list[int]
) -> None:
    text = "".join("".join(pieces) for pieces in responses)
    tokens = Bytes(text, cuts)
    assert StepFinder(tokens.decode).ends(tokens.ids, text) == step_ends(tokens.ids, tokens.decode)
    assert finished_steps(text) == len(step_ends(tokens.ids, tokens.decode))


BASE = Path(__file__).resolve().parents[2] / "assets" / "digits-base"

TOKENIZER = Tokenizer.from_file(str(BASE / "tokenizer.json"))
ANY_ID = st.integers(0, TOKENIZER.get_vocab_size() - 1)
VOCABULARY = ["", "", "a", "7", " ", "\n", "\n\n", "\n \n", "\r", "#", "# ", "# Answer", "er",
              ".\n", "\nthree", "\n\nfour\n\n", "\n\n# Answer", " \n"]  # fmt: skip


@given(st.lists(st.lists(st.integers(0, len(VOCABULARY) - 1), max_size=30), min_size=1, max_size=5))
def test_one_finder_serves_many_responses(responses: list[list[int]]) -> None:
    """Tokens without a text (special ones) are among them."""

    def decode(ids: Sequence[int]) -> str:
        return "".join(VOCABULARY[i] for i in ids)

    finder = StepFinder(decode)
    for ids in responses:
        assert finder.ends(ids, decode(ids)) == step_ends(ids, decode)


WORDS = st.sampled_from(
    ["the top left digit is ", "8", " + 5 is ", "größer", "三", "\n", "\n\n", "# Answer", "\n\n7"]
)


@given(st.lists(WORDS, max_size=14), st.data())
def test_a_finder_gives_the_same_ends_with_a_real_tokenizer(
    words: list[str], data: st.DataObject
) -> None:
    """Texts as they are tokenised, and ids that no tokeniser would give."""

    def decode(ids: Sequence[int]) -> str:
        return str(TOKENIZER.decode(list(ids), skip_special_tokens=True))

    finder = StepFinder(decode)
    ids = TOKENIZER.encode("".join(words), add_special_tokens=False).ids
    drawn = st.lists(st.sampled_from(ids), max_size=30) if ids else st.just([])
    for some in (ids, data.draw(drawn), data.draw(st.lists(ANY_ID, max_size=20))):
        assert finder.ends(some, decode(some)) == step_ends(some, decode)


def test_a_finder_asks_the_definition_where_tokens_depend_on_their_neighbours() -> None:
    """A tokenizer that writes spaces between words, and a text that is not the tokens' own."""
    words = ["one", "\n\n", "two", "\n\n", "# Answer", "\n\n", "7"]

    def spaced(ids: Sequence[int]) -> str:
        return " ".join(words[i] for i in ids).replace(" \n", "\n").replace("\n ", "\n")

    ids = list(range(len(words)))
    assert step_ends(ids, spaced) == [2, 4]
    assert StepFinder(spaced).ends(ids, spaced(ids)) == [2, 4]
    assert StepFinder(spaced).ends(ids, "something else") == [2, 4]


def test_a_finder_decodes_tokens_once_and_responses_never() -> None:
    text = "\n\n".join(["A step of some length."] * 8) + "\n\n# Answer\n\n7"
    tokens = Bytes(text, range(len(text)))
    finder = StepFinder(tokens.decode)
    for _ in range(3):
        assert len(finder.ends(tokens.ids, text)) == 8
    assert tokens.decoded == len(tokens.ids)
