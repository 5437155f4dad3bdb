"""The published rules of benchmarks, against outcomes that were worked out without this code.

How each table was made stands at its head.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.grading.benchmarks import mathvista, mmbench, mmstar, reasoning_rule
from pipeline.grading.benchmarks.item import Item
from pipeline.grading.benchmarks.known import BENCHMARKS
from pipeline.grading.grade import grade
from pipeline.query import AnswerType, Query
from pipeline.responses import ANSWER_HEADING

TABLES = Path(__file__).parent / "tables"
TABLE_OF = {name: name.removesuffix("-r") for name in BENCHMARKS}


def table(name: str) -> list[dict[str, Any]]:
    """The rows of a table by column."""
    lines = (TABLES / f"{name}.tsv").read_text("utf-8").splitlines()
    header, *rows = [line.split("\t") for line in lines if not line.startswith("# ")]
    return [dict(zip(header, map(json.loads, row), strict=True)) for row in rows]


def item(row: dict[str, Any]) -> Item:
    return Item(
        prompt="?",
        choices=tuple(row.get("choices") or ()),
        answer=row["answer"],
        kind=row.get("kind", "choice" if row.get("choices") else "open"),
        precision=row.get("precision"),
    )


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_response_is_right_where_the_published_rule_says_so(name: str) -> None:
    rows = table(TABLE_OF[name])
    assert len(rows) >= 60
    found = [BENCHMARKS[name].right(row["response"], item(row)) for row in rows]
    wrong = [row for row, right in zip(rows, found, strict=True) if right != row["right"]]
    assert wrong == []
    assert 0.2 < sum(found) / len(found) < 0.8


def test_the_letters_that_are_read() -> None:
    for row in table("mmstar"):
        assert mmstar.predicted(row["response"]) == row["letter"]
    for row in table("mmbench"):
        assert mmbench.predicted(row["response"], item(row)) == row["letter"]


def test_what_is_extracted_for_mathvista() -> None:
    for row in table("mathvista"):
        assert mathvista.extracted(row["response"], item(row)) == row["extraction"]


def test_the_rule_for_responses_that_reason_first() -> None:
    rows = table("mathvista_reasoning")
    assert len(rows) >= 60
    types: dict[str, AnswerType] = {"integer": "number", "float": "number", "list": "list"}
    for row in rows:
        one = item(row)
        answer = reasoning_rule.extracted(row["response"])
        assert answer == row["extraction"]
        assert reasoning_rule.equal_text(answer, one) == row["text"], row
        right = row["text"]
        if row["kind"] != "choice" and not right:
            query = Query("q", (), "?", None, row["answer"], types[row["kind"]])
            right = grade(f"{ANSWER_HEADING}\n\n{answer}", query) == "correct"
        assert right == row["here"], row
    # "seven", "7 apples", a sum that nobody added up, one decimal more, "1,2", "[0,2]"
    assert sum(row["right"] != row["here"] for row in rows) == 6


@pytest.mark.parametrize(
    ("one", "other", "distance"),
    [("", "", 0), ("a", "", 1), ("kitten", "sitting", 3), ("145", "145°", 1), ("ab", "ba", 2)],
)
def test_the_edit_distance(one: str, other: str, distance: int) -> None:
    assert mathvista.edit_distance(one, other) == mathvista.edit_distance(other, one) == distance
