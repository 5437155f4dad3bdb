"""What each benchmark asks, from rows as they are published; and that no reward comes from them."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.grading.benchmarks import ai2d, m3cot, mathverse, mathvista, mmbench, mmmu, mmstar
from pipeline.grading.benchmarks.figures import Judged, average, figures
from pipeline.grading.benchmarks.item import Item, Values
from pipeline.grading.benchmarks.known import BENCHMARKS

ROOT = Path(__file__).resolve().parents[4]
VISTA = {"question_type": "free_form", "unit": None, "choices": None}
LETTERS = {"A": "left", "B": "right"}


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        (
            VISTA | {"question": "How heavy?", "answer_type": "integer", "unit": "g"},
            "Hint: Please answer the question requiring an integer answer and provide the final "
            "value, e.g., 1, 2, 3, at the end.\nQuestion: How heavy? (Unit: g)",
        ),
        (
            VISTA | {"question": "λ?", "answer_type": "float", "precision": 1.0, "answer": "1.2"},
            "Hint: Please answer the question requiring a floating-point number with one decimal "
            "place and provide the final value, e.g., 1.2, 1.3, 1.4, at the end.\nQuestion: λ?",
        ),
        (
            VISTA | {"question": "∠A?", "answer_type": "text", "choices": ["135°", "140°"],
                     "answer": "140°"},
            "Hint: Please answer the question and provide the correct option letter, e.g., A, B, "
            "C, D, at the end.\nQuestion: ∠A?\nChoices:\n(A) 135°\n(B) 140°",
        ),
        (
            VISTA | {"question": "Which?", "answer_type": "list", "answer": "[0, 2]"},
            "Hint: Please answer the question requiring a Python list as an answer and provide the "
            "final list, e.g., [1, 2, 3], [1.2, 1.3, 1.4], at the end.\nQuestion: Which?",
        ),
    ],
)  # fmt: skip
def test_mathvista(row: Values, prompt: str) -> None:
    assert mathvista.item(row).prompt == prompt


def test_mathvista_casts_the_precision_of_parquet() -> None:
    """`round(x, 1.0)` raises, which would make every float question wrong."""
    row = VISTA | {"question": "λ?", "answer_type": "float", "precision": 1.0, "answer": "1.2"}
    assert mathvista.right("1.23", mathvista.item(row))


def test_the_others() -> None:
    row: Values = {"question": "Why?", "choices": ["x", "y"], "context": "So.", "answer": "B"}
    assert m3cot.item(row).prompt == "[Context]\nSo.\n\n[Question]\nWhy?\n[Choices]\n(A) x\n(B) y"
    row = {"question": "Why?", "options": ["x", "y"], "answer": "1"}
    ask = "Answer with the option's letter from the given choices directly"
    assert ai2d.item(row) == Item(f"Why?\nA. x\nB. y\n{ask}.", ("x", "y"), "B")
    row = {"index": 1000007, "question": "Why?", "hint": "Look.", "answer": "A", **LETTERS}
    bench = mmbench.item(row | {"l2-category": "logic_reasoning"})
    assert bench is not None
    assert bench.prompt == (
        "Hint: Look.\nQuestion: Why?\nOptions:\nA. left\nB. right\n"
        "Please select the correct answer from the options above."
    )
    assert bench.group == "7"
    assert mmbench.item(row | {"l2-category": "coarse_perception"}) is None
    star = mmstar.item({"question": "Why?\nOptions: A: x, B: y", "answer": "B", "category": "math"})
    assert star is not None
    assert star.prompt == f"Why?\nOptions: A: x, B: y\n{ask}"
    assert mmstar.item({"question": "?", "category": "fine-grained perception"}) is None
    row = {"id": "validation_Art_1", "question": "Is <image 2> it?", "options": "['x', 'y']"}
    assert mmmu.item(row).prompt == f"Is image 2 it?\n\n(A) x\n(B) y\n\n{ask}."
    assert mmmu.item(row).labels == {"subject": "Art"}
    row = {"question": "", "query_wo": "Please answer.", "problem_version": "Vision Only"}
    assert mathverse.item(row).prompt == "Please answer."


def judged(group: str, outcome: str, official: bool, label: str = "x") -> Judged:
    one = Item("?", (), "A", labels={"l2": label, "category": "c"}, group=group)
    return Judged(one, outcome, official, truncated=False)


def test_a_question_counts_when_all_its_rotations_are_right() -> None:
    found = figures(
        BENCHMARKS["mmbench-r"],
        [
            judged("7", "correct", True), judged("7", "wrong", True),
            judged("8", "correct", False), judged("8", "correct", True),
            judged("9", "correct", True),
        ],
    )  # fmt: skip
    assert (found["n"], found["asked"]) == (3, 5)
    assert found["strict"]["value"] == pytest.approx(2 / 3)
    assert found["official"]["value"] == pytest.approx(2 / 3)


def test_a_question_that_lacks_a_rotation_is_left_out() -> None:
    one = replace(judged("7", "correct", True), item=Item("?", ("x", "y"), "A", group="7"))
    other = replace(one, item=replace(one.item, group="8"))
    bench = replace(BENCHMARKS["mmbench-r"], by=())
    found = figures(bench, [one, one, other])
    assert (found["n"], found["asked"], found["incomplete"]) == (1, 2, 1)
    assert figures(bench, [one, other])["n"] == 2  # nothing is rotated


def test_the_mean_over_finer_categories_is_not_that_over_questions() -> None:
    rows = [judged("", "correct", True, "a"), *(judged("", "unparsed", False, "b") for _ in "xyz")]
    found = figures(BENCHMARKS["mmstar-r"], rows)
    assert found["strict"]["value"] == 0.25
    assert found["strict"]["mean_over"] == {"l2": 0.5}
    assert found["unparsed"] == 0.75
    assert found["by"]["l2"]["b"]["n"] == 3


def test_an_average_needs_all_of_them() -> None:
    found = {"a": {"strict": {"value": 0.5}}, "b": {"strict": {"value": 1.0}}}
    assert average(found, ("a", "b"), "strict") == 0.75
    assert average(found, ("a", "c"), "strict") is None


def imports_of(path: Path) -> set[str]:
    nodes = ast.walk(ast.parse(path.read_text("utf-8")))
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def test_no_training_path_imports_a_benchmark() -> None:
    """MathVista's nearest choice gives every response an answer: a reward would pay guesses."""
    package = "pipeline.grading.benchmarks"
    allowed = {
        "jobs/benchmark.py", "jobs/runtime/benchmark_data.py", "jobs/runtime/benchmark_tables.py"
    }  # fmt: skip
    importers = {
        str(path.relative_to(ROOT))
        for top in ("pipeline", "actors", "jobs", "cluster")
        for path in (ROOT / top).rglob("*.py")
        if any(name.startswith(package) for name in imports_of(path))
        if package.replace(".", "/") not in str(path)
    }
    assert importers == allowed
    users = {
        str(path.relative_to(ROOT))
        for top in ("pipeline", "actors", "jobs")
        for path in (ROOT / top).rglob("*.py")
        if any(name in ("jobs.benchmark", "jobs.runtime.benchmark_data") or
               name.startswith(("jobs.benchmark.", "jobs.runtime.benchmark_data."))
               for name in imports_of(path))
    }  # fmt: skip
    assert users == {"jobs/benchmark.py", "jobs/commands/benchmark.py"}
