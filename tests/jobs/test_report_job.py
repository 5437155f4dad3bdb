"""Rows and pooled differences of several runs, out of their stores."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobs.report import finished
from pipeline.metrics.intervals import over_seeds, paired_difference
from pipeline.query import Query
from pipeline.records import Grade
from pipeline.reports.seeds import loop_pooled, together
from pipeline.storage.artifacts import read_rows
from tests.support.finished_runs import driven_to, loop_run
from tests.support.jobs import mstar
from tests.support.scripted import make_config, with_base


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Finished runs of two seeds, the higher one first."""
    folder = tmp_path_factory.mktemp("runs")
    return [loop_run(folder, seed) for seed in (1, 0)]


def test_a_row_for_each_seed_and_all_of_them_together(folders: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "results" / "loop.json"
    done = mstar("report", "loop", *folders, "--out", out)
    assert done.exit_code == 0, done.output
    rows = json.loads(out.read_text())
    assert [row["seed"] for row in rows] == [1, 0]
    runs = [finished(folder) for folder in folders]
    for row, run in zip(rows, runs, strict=True):
        policies = run.state.policies
        right = {}
        for name, ref in (
            ("warmup", policies["warmup"]),
            ("control", policies[run.state.finished["control"]]),  # type: ignore[index]
            ("final", policies[run.state.finished["final"]]),  # type: ignore[index]
        ):
            paths = run.state.evaluations[f"{ref.version}|test|greedy"]["grades"]
            grades = [grade for path in paths for grade in read_rows(run.store, path, Grade)]
            right[name] = [grade.outcome == "correct" for grade in grades]
            assert row[name] == sum(right[name]) / len(right[name])
        assert row["diff"] == pytest.approx(row["final"] - row["warmup"])
        assert row["control_diff"] == pytest.approx(row["final"] - row["control"])
        assert row["ci95"][0] <= row["diff"] <= row["ci95"][1]
        assert row["families_rise"] == sum(v > 0 for v in row["families"].values()) / 2
        assert row["wall_s"] >= 0
    pooled = loop_pooled(runs)
    assert pooled["final - warmup"].value == pytest.approx(sum(r["diff"] for r in rows) / 2)
    assert pooled["final - control"].n == sum(row["n"] for row in rows)
    shown = done.output.splitlines()
    assert [line.split(" | ")[0] for line in shown if line.startswith("| ")] == [
        "| seed", "| 1", "| 0"
    ]  # fmt: skip
    assert f"final - warmup: {100 * pooled['final - warmup'].value:+.1f}" in done.output
    over = over_seeds([row["diff"] for row in rows])
    low, high = (f"{100 * end:.1f}" for end in over.ci95)
    assert f"[{low}, {high}] points over 2 seeds" in done.output


def question(number: int, *images: str) -> Query:
    return Query(
        query_id=f"q{number}", images=images, question=f"{number}?", choices=None, answer="1",
        answer_type="number", source="family", split="test",
    )  # fmt: skip


def test_a_seed_more_is_no_question_more() -> None:
    """Two seeds that answer alike give the interval of one, whether questions have images."""
    for queries in (
        [question(i) for i in range(12)],
        [question(i, f"{i // 2:064x}") for i in range(12)],
    ):
        names = [query.content_hash for query in queries]
        a = {name: i % 3 == 0 for i, name in enumerate(names)}
        b = {name: i % 4 == 0 for i, name in enumerate(names)}
        one = together(queries, [(a, b)])
        two = together([*queries, *queries], [(a, b), (a, b)])
        assert two.value == pytest.approx(one.value)
        assert (two.ci95, two.n) == (one.ci95, 24)
    # The groups are the images', not the questions'.
    groups = [i // 2 for i in range(12)]
    left, right = ([float(side[name]) for name in names] for side in (a, b))
    assert one == paired_difference(left, right, groups, seed=0)


def test_only_questions_that_both_answered_count() -> None:
    queries = [question(i) for i in range(4)]
    names = [query.content_hash for query in queries]
    a = dict.fromkeys(names[:3], True)
    b = dict.fromkeys(names[1:], False)
    assert (together(queries, [(a, b)]).n, together(queries, [(a, b)]).value) == (2, 1.0)
    with pytest.raises(ValueError, match="not empty"):
        together(queries, [({}, b)])


def test_runs_that_cannot_be_reported_are_refused(folders: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "loop.json"
    done = mstar("report", "loop", tmp_path / "nowhere", "--out", out)
    assert (done.exit_code, "nowhere is no store" in done.output) == (2, True)
    done = mstar("report", "loop", *folders, folders[1], "--out", out)
    assert (done.exit_code, "both have seed 0" in done.output) == (2, True)
    config = with_base(make_config(run={"name": "half"}), tmp_path / "base")
    half = driven_to(config, tmp_path / "half", lambda state: "base" in state.policies)
    done = mstar("report", "loop", half, "--out", out)
    assert (done.exit_code, "half: this run is not finished" in done.output) == (2, True)
    assert not out.exists()


def test_a_run_without_control_has_a_row(tmp_path: Path) -> None:
    evolve = {"iterations": 2, "interval": 1 / 3, "control": False}
    folder = loop_run(tmp_path, 0, evolve=evolve)
    out = tmp_path / "loop.json"
    done = mstar("report", "loop", folder, "--out", out)
    assert done.exit_code == 0, done.output
    (row,) = json.loads(out.read_text())
    assert (row["control"], row["control_diff"]) == (None, None)
    assert "final - control:" not in done.output
