"""What differs between the data of two starts, row by row."""

from __future__ import annotations

from dataclasses import replace

from pipeline.query import Query
from pipeline.run.same_run import data_changes


def query(name: str, answer: str | None = "1", split: str = "train") -> Query:
    return Query(name, (), f"what is {name}?", None, answer, "number", split=split)


def test_equal_data_say_nothing_whatever_their_order() -> None:
    a, b = query("a"), query("b")
    assert data_changes({"train": (a, b)}, {"train": (b, a)}) == []


def test_every_kind_of_change_is_named() -> None:
    then = {"train": tuple(query(name) for name in "abcd"), "test": (query("t", split="test"),)}
    now = {
        "train": (
            query("a", "2"),
            replace(query("b"), question="another"),
            query("c", None),
            query("e"),
        ),
        "ood": (query("o", split="ood"),),
    }
    assert data_changes(then, now) == [
        "train: 1 removed: d",
        "train: 1 new: e",
        "train: 1 with another question, choices or images: b",
        "train: the answer of a was 1 (number) and is 2 (number)",
        "train: the answer of c was 1 (number) and is none",
        "test: 1 removed: t",
        "ood: 1 new: o",
    ]


def test_many_are_counted() -> None:
    names = [f"q{i}" for i in range(9)]
    then = {"train": tuple(map(query, names))}
    (line,) = data_changes(then, {})
    assert line == "train: 9 removed: q0, q1, q2, q3, q4, and 4 more"
    lines = data_changes(then, {"train": tuple(query(name, "2") for name in names)})
    assert len(lines) == 6
    assert lines[-1] == "train: 4 more have other answers"
