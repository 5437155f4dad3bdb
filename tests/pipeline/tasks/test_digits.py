"""The digits task: disjoint scans, equal bytes for equal seeds, a checker that is not fooled."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.runtime.prepare import data_path
from pipeline.config.load import config_from_dict
from pipeline.datasets.dataset import load_dataset
from pipeline.errors import BadData
from pipeline.grading.grade import grade
from pipeline.prompts import question_text
from pipeline.query import Query
from pipeline.tasks.digits import build as building
from pipeline.tasks.digits import lessons
from pipeline.tasks.digits.augment import augmented_pixels
from pipeline.tasks.digits.build import Built, build, read_truth, write
from pipeline.tasks.digits.chains import explain
from pipeline.tasks.digits.checker import check
from pipeline.tasks.digits.families import FAMILIES, OOD_FAMILIES, Question
from pipeline.tasks.digits.scenes import (
    GRID,
    ROW,
    SCANS_OF_SPLIT,
    Scene,
    draw_scene,
    scans_by_split,
)
from pipeline.tasks.digits.statements import read_step

SMALL = {"train": 30, "validation": 14, "test": 14, "ood": 8}


@pytest.fixture(scope="module")
def built() -> Built:
    return build(3, SMALL)


def test_no_scan_serves_two_splits_and_test_has_many() -> None:
    parts = scans_by_split(0)
    every = [scan for scans in parts.values() for scan in scans]
    assert len(every) == len(set(every)) == sum(SCANS_OF_SPLIT.values())
    assert len(parts["test"]) >= 350


def test_questions_use_only_scans_of_their_split(built: Built) -> None:
    parts = scans_by_split(0)
    for query in built.queries:
        pool = parts["test" if query.split == "ood" else query.split]
        assert set(built.truth[query.query_id].scene.scans) <= set(pool)


def test_the_same_seed_writes_the_same_bytes(built: Built, tmp_path: Path) -> None:
    for folder, made in (("a", built), ("b", build(3, SMALL)), ("c", build(4, SMALL))):
        write(made, tmp_path / folder)
    bytes_of = [
        {f.relative_to(tmp_path / name): f.read_bytes() for f in (tmp_path / name).rglob("*.*")}
        for name in "abc"
    ]
    assert bytes_of[0] == bytes_of[1]
    assert bytes_of[0] != bytes_of[2]


def test_a_written_task_loads_with_its_truth(built: Built, tmp_path: Path) -> None:
    write(built, tmp_path)
    loaded = load_dataset(tmp_path)
    assert {q.query_id: q for q in loaded.queries} == {q.query_id: q for q in built.queries}
    assert read_truth(tmp_path) == built.truth


def test_truth_of_another_data_set_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"truth\.json.*process checker"):
        read_truth(tmp_path)


def test_half_of_the_families_are_free_form_and_ood_shares_none() -> None:
    rng = random.Random(0)
    scene = draw_scene(GRID, scans_by_split(0)["test"], rng)
    free = [make(scene, rng).answer_type == "number" for make in FAMILIES.values()]
    assert len(free) >= 6
    assert 2 * sum(free) >= len(free)
    assert not set(FAMILIES) & set(OOD_FAMILIES)


def test_more_than_half_of_the_test_questions_are_free_form_and_every_family_is_asked() -> None:
    split = [q for q in build(0, {"test": 60}).queries if q.split == "test"]
    asked = Counter(q.source.removeprefix("digits/") for q in split)
    assert set(asked) == set(FAMILIES)
    assert asked["sum_all"] == 3 * asked["sum"]
    assert sum(q.answer_type == "number" for q in split) > len(split) / 2


def _case(family: str, seed: int) -> tuple[Question, Scene, random.Random]:
    rng = random.Random(seed)
    scene = draw_scene(GRID, scans_by_split(0)["train"], rng)
    return FAMILIES[family](scene, rng), scene, rng


@given(st.sampled_from(sorted(FAMILIES)), st.integers(0, 10**6))
@settings(max_examples=300, deadline=None)
def test_every_explanation_is_process_true(family: str, seed: int) -> None:
    question, scene, rng = _case(family, seed)
    verdict = check(explain(question, scene, rng), question, scene)
    assert verdict.process_true
    assert verdict.first_false is None


@given(st.sampled_from(sorted(FAMILIES)), st.integers(0, 10**6))
@settings(max_examples=200, deadline=None)
def test_a_misread_picture_is_found_at_the_first_wrong_reading(family: str, seed: int) -> None:
    question, scene, rng = _case(family, seed)
    cell = rng.choice(question.needs)
    index = scene.cells.index(cell)
    digits = list(scene.digits)
    digits[index] = (digits[index] + rng.randint(1, 9)) % 10
    other = Scene(scene.layout, scene.scans, tuple(digits))
    verdict = check(explain(question, scene, rng), question, other)
    assert not verdict.process_true
    first = verdict.first_false
    assert first is not None
    assert cell in verdict.steps_S[first].text


SUM = Question("sum", "", None, "8", "number", ("top left", "top right"), ("plus",))
SCENE = Scene("grid", (0, 1, 2, 3), (3, 5, 4, 9))


@pytest.mark.parametrize(
    ("steps", "answer", "holds"),
    [
        ("top left is 3\n\ntop right is 5\n\n3 plus 5 is 8", "8", True),
        ("the top right digit shows 5 and I see a 3 at the top left cell\n\n3 + 5 = 8", "8", True),
        ("First, top left is 3; then top right: 5.\n\nso adding 3 to 5 gives 8", "8", True),
        ("top left is 3\n\n3 plus 5 is 8", "8", False),  # 5 was never read
        ("top left is 3\n\ntop right is 5", "8", False),  # nothing settles the answer
        ("top left is 3\n\ntop right is 5\n\n5 plus 3 is 9", "9", False),
        ("top left is 3\n\ntop right is 5\n\n3 plus 5 is 8", "9", False),  # another answer
        ("top left is 4\n\ntop right is 4\n\n4 plus 4 is 8", "8", False),  # a false positive
        ("top left is 3\n\ntop right is 5\n\n5 minus 3 is 2\n\n3 plus 5 is 8", "8", True),
        ("top left is 3\n\ntop right is 5\n\n5 minus 3 is 8", "8", False),
        ("top left is 3\n\ntop right is 5\n\nit must be 8\n\n3 plus 5 is 8", "8", False),
        ("", "8", False),
    ],
)
def test_what_the_checker_says_of_a_sum(steps: str, answer: str, holds: bool) -> None:
    assert check(f"{steps}\n\n# Answer\n\n{answer}", SUM, SCENE).process_true is holds


MINUS = Question("minus", "", None, "-2", "number", ("top left", "top right"), ("minus",))
NUMBER = Question("number", "", None, "35", "number", ("top left", "top right"), ("number",))


@pytest.mark.parametrize(
    ("question", "last", "answer", "holds"),
    [
        (MINUS, "3 minus 5 is -2", "-2", True),
        (MINUS, "3 - 5 = -2", "-2", True),
        (MINUS, "5 minus 3 is 2", "2", False),  # true, but the other way round
        (MINUS, "from 3 to 5 is 2", "-2", False),  # settles another answer
        (MINUS, "3 minus 5 is 2", "2", False),
        (NUMBER, "3 tens and 5 is 35", "35", True),
        (NUMBER, "3 followed by 5 is 35", "35", True),
        (NUMBER, "5 tens and 3 is 53", "35", False),
        (NUMBER, "5 followed by 3 is 35", "35", False),
    ],
)
def test_order_matters_where_the_question_says_so(
    question: Question, last: str, answer: str, holds: bool
) -> None:
    text = f"top right is 5\n\ntop left is 3\n\n{last}\n\n# Answer\n\n{answer}"
    verdict = check(text, question, SCENE)
    assert (verdict.process_true and grade(text, _query(question)) == "correct") is holds


def _query(question: Question) -> Query:
    return Query(
        query_id="q",
        images=(),
        question="?",
        choices=None,
        answer=question.answer,
        answer_type=question.answer_type,
        unlabelled=False,
        source="digits",
        split="test",
    )


def test_blended_pictures_are_of_the_scans_given() -> None:
    pool = scans_by_split(0)["base"]
    scene = draw_scene(GRID, pool, random.Random(0))
    whole = augmented_pixels(scene, random.Random(1))
    blended = augmented_pixels(scene, random.Random(1), blend=1.0, others=pool)
    assert whole.shape == blended.shape == (32, 32)
    assert (whole != blended).any()
    again = augmented_pixels(scene, random.Random(1), blend=1.0, others=pool)
    assert (blended == again).all()


def test_a_response_without_an_answer_is_not_true() -> None:
    steps = "top left is 3\n\ntop right is 5\n\n3 plus 5 is 8"
    assert not check(steps, SUM, SCENE).process_true
    assert not check(f"{steps}\n\n# Answer\n\n8\n\n# Answer\n\n8", SUM, SCENE).process_true


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    statements = read_step(text)
    assert statements is None or len(statements) > 0


def test_gold_answers_are_graded_correct_and_others_wrong(built: Built) -> None:
    for query in built.queries:
        assert grade(f"a step\n\n# Answer\n\n{query.answer}", query) == "correct"
        other = {"number": "131", "yes_no": "no" if query.answer == "yes" else "yes"}
        wrong = other.get(query.answer_type, "A" if query.answer != "A" else "B")
        assert grade(f"a step\n\n# Answer\n\n{wrong}", query) == "wrong"


def test_no_lesson_answers_an_evaluated_question_without_its_gold_answer() -> None:
    rng = random.Random(0)
    pool = scans_by_split(0)["base"]
    questions = set()
    for layout, families in ((GRID, FAMILIES), (ROW, OOD_FAMILIES)):
        for make in families.values():
            questions |= {make(draw_scene(layout, pool, rng), rng).text for _ in range(100)}
    for _ in range(500):
        for lesson in (lessons.read_one(pool, rng), lessons.read_several(pool, rng)):
            assert lesson.prompt not in questions
        assert lessons.text_alone(rng).prompt not in questions
        assert "The answer is" in lessons.explain_with_gold(pool, rng).prompt


def test_lessons_use_only_base_scans() -> None:
    rng, pool = random.Random(0), scans_by_split(0)["base"]
    made = [lessons.read_one(pool, rng) for _ in range(50)]
    assert all(set(lesson.scene.scans) <= set(pool) for lesson in made if lesson.scene)


def test_a_lesson_asks_a_question_as_the_loop_does(built: Built) -> None:
    for query in built.queries:
        truth = built.truth[query.query_id]
        assert lessons.asked(truth.question) == question_text(query)


def test_a_built_in_data_set_of_another_making_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_from_dict({"run": {"out": str(tmp_path)}})
    monkeypatch.setattr(building, "build", lambda: build(3, SMALL))
    said: list[str] = []
    folder = data_path(config, said.append)
    assert data_path(config, said.append) == folder
    assert len(said) == 1
    monkeypatch.setattr(building, "SIZES", {"train": 1})
    data_path(config, said.append)
    assert len(said) == 2
