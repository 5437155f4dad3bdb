"""Warnings where figures mean little, each with the figure that it is about."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.metrics.intervals import wilson
from pipeline.query import Query
from pipeline.reports.warnings import WIDE, data_warnings, run_warnings, sampling_warnings
from pipeline.run.spec import RunSpec
from pipeline.selection.coverage import Coverage
from tests.support.driving import Bench
from tests.support.scripted import make_config, make_program


def with_test(queries: list[Query]) -> RunSpec:
    spec = make_program(make_config())
    many = tuple(question(i) for i in range(200))
    return replace(spec, splits={"train": many, "validation": many, "test": tuple(queries)})


def question(i: int, answer: str | None = None, source: str = "user") -> Query:
    return Query(f"q{i}", (), f"{i}?", None, answer or str(i), "number", source=source)


def test_a_split_too_small_for_its_interval_is_named_with_the_number_it_needs() -> None:
    (line,) = data_warnings(with_test([question(i) for i in range(12)]))
    assert line.startswith("test has 12 questions: a 95 % interval is up to 49 points wide")
    enough = int(line.split("; ")[1].split()[0])
    low, high = wilson(enough // 2, enough)
    assert high - low <= WIDE
    assert data_warnings(with_test([question(i) for i in range(enough)])) == []


def test_families_of_one_answer_are_named() -> None:
    queries = [question(i, "7", "sums") for i in range(100)] + [question(i) for i in range(100)]
    (line,) = data_warnings(with_test(queries))
    assert line.startswith("test: all questions of 'sums' have one answer, so chance is 100 %")


def test_a_run_without_test_questions_says_so() -> None:
    spec = with_test([])
    spec = replace(spec, splits={name: spec.splits[name] for name in ("train", "validation")})
    assert ["no test split" in line for line in data_warnings(spec)] == [True]


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        (Coverage(samples=40, correct=3, wrong=37, kept=2), ["2 responses to train on are a han"]),
        (Coverage(samples=40, wrong=40), ["not one of 40 responses is correct"]),
        (
            Coverage(samples=40, unparsed=40),
            ["100 % of 40 responses have no readable answer", "not one of 40"],
        ),
        (Coverage(samples=90, correct=50, wrong=40, kept=50), []),
    ],
)
def test_responses_that_teach_little_are_counted(counts: Coverage, words: list[str]) -> None:
    lines = sampling_warnings("evolve/1", counts.to_dict())
    assert len(lines) == len(words)
    for line, part in zip(lines, words, strict=True):
        assert line.startswith("evolve/1: ")
        assert part in line


def test_a_finished_run_is_read_with_all_its_warnings(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    lines = run_warnings(bench.run(), bench.program)
    assert any(line.startswith("validation has 5 questions") for line in lines)
    assert any(line.startswith("warmup: ") and "are a handful" in line for line in lines)
    assert len(set(lines)) == len(lines)
