"""Votes group the answers that the grader calls equal."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipeline.grading.grade import Gold, grade_answer
from pipeline.metrics.votes import winner
from pipeline.query import Query
from pipeline.selection.answer_classes import answer_classes

NUMBER = Query("n", (), "How much?", None, None, "number", unlabelled=True)
OPTION = Query("o", (), "Which?", ("red", "blue", "green"), None, "letter", unlabelled=True)


def test_letters_vote_together_however_they_are_written() -> None:
    answers = ["B", "(B)", "B.", "Option B", "blue", "A", "A"]
    classes = answer_classes(answers, OPTION)
    assert classes == [0, 0, 0, 0, 0, 5, 5]
    assert winner("majority", classes, [1.0] * 7) == 0
    assert winner("weighted", classes, [0.5] * 7) == 0


def test_numbers_vote_together_however_they_are_written() -> None:
    classes = answer_classes(["2", "0.5", "1/2", "2", "50%", ".5", None], NUMBER)
    assert classes == [0, 1, 1, 0, 1, 1, None]
    assert winner("majority", classes, [1.0] * 7) == 1


def test_what_cannot_be_read_votes_by_its_text() -> None:
    assert answer_classes(["no idea", "No  idea", "7", "dunno"], NUMBER) == [0, 0, 2, 3]


@given(st.lists(st.sampled_from(["1", "1.0", "2", "4/2", "-3", "x", "1/3"]), max_size=8))
def test_classes_are_those_of_comparing_with_every_first_answer(answers: list[str]) -> None:
    classes = answer_classes(answers, NUMBER)
    for index, (answer, place) in enumerate(zip(answers, classes, strict=True)):
        assert place is not None
        assert place <= index
        assert classes[place] == place
        if place != index and answer != answers[place]:
            gold = Gold("n", answers[place], "number")
            assert grade_answer(answer, gold) == "correct"
