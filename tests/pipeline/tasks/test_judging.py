"""Lessons of judging: a statement is called true when it is, and no lesson is about a question."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.responses import ANSWER_HEADING
from pipeline.tasks.digits.families import FAMILIES, OOD_FAMILIES
from pipeline.tasks.digits.judging import Judging, judge_picture, judge_text
from pipeline.tasks.digits.scenes import GRID, ROW, Scene, draw_scene, scans_by_split
from pipeline.tasks.digits.statements import Statement, read_step

POOL = scans_by_split(0)["base"]


def _lesson(seed: int) -> Judging:
    rng = random.Random(seed)
    return judge_picture(POOL, rng) if seed % 2 else judge_text(rng)


def _holds(statement: Statement, scene: Scene | None) -> bool:
    if statement.kind == "reading":
        return scene is not None and str(scene.digit(statement.where)) == statement.claim
    if statement.kind == "parity":
        return statement.claim == ("odd" if statement.operands[0] % 2 else "even")
    a, b = statement.operands
    if statement.kind == "compare":
        return {">": a > b, "<": a < b, "=": a == b}[statement.claim]
    return int(statement.claim) == (a + b if statement.kind == "plus" else a - b)


@given(st.integers(0, 10**6))
@settings(max_examples=200, deadline=None)
def test_a_step_is_called_true_when_every_statement_in_it_is(seed: int) -> None:
    lesson = _lesson(seed)
    for step in lesson.steps:
        statements = read_step(step.text)
        assert step.true == (
            statements is not None and all(_holds(one, lesson.scene) for one in statements)
        )


WORDS = {">": ("larger", ">"), "<": ("smaller", "<"), "=": ("equals", "=")}


@given(st.integers(0, 10**6))
@settings(max_examples=200, deadline=None)
def test_the_word_that_should_stand_there_does_in_true_statements_only(seed: int) -> None:
    for step in _lesson(seed).steps:
        if step.right is not None:
            stands = WORDS.get(step.right, (step.right,))
            words = step.text.split()
            # Digits of longer results are spelled one by one: the last decides.
            last = words[-1][-1:] if step.right.isdigit() else None
            assert step.true == (last in stands if last else any(w in words for w in stands))


def test_about_half_of_all_statements_are_false() -> None:
    true = [step.true for seed in range(400) for step in _lesson(seed).steps]
    assert 0.45 < sum(true) / len(true) < 0.55


def test_no_lesson_of_judging_asks_or_answers_an_evaluated_question() -> None:
    rng, questions = random.Random(0), set()
    for layout, families in ((GRID, FAMILIES), (ROW, OOD_FAMILIES)):
        for make in families.values():
            questions |= {make(draw_scene(layout, POOL, rng), rng).text for _ in range(200)}
    for seed in range(400):
        lesson = _lesson(seed)
        assert not any(question in lesson.prompt for question in questions)
        assert not any(ANSWER_HEADING in step.text for step in lesson.steps)
        if lesson.scene is not None:
            assert set(lesson.scene.scans) <= set(POOL)
