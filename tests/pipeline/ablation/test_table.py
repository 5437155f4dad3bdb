"""Tables out of results: means, differences, what is said of them; and which runs may begin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from pipeline.ablation.cells import Cell, RunOfCells, runs_of, startable, with_needed
from pipeline.ablation.page import page
from pipeline.ablation.recipe import Row, Table
from pipeline.ablation.results import (
    Result,
    check_steps,
    expected_s,
    read_results,
    steps_of,
    with_results,
    written,
)
from pipeline.ablation.table import Figures, adjusted, figures_of, sentence
from pipeline.config.schema import Config
from pipeline.errors import BadConfig
from pipeline.metrics.comparisons import holm
from pipeline.metrics.intervals import over_seeds

SEEDS = (11, 12, 13)

RESULT = Result(
    table="2", row="a", seed=11, test=0.5, test_true=0.4, ood=0.1, n=1080, steps=60, wall_s=100.0,
    commit="c", recipe="r", base="b", grader="g", hardware="h", run="seed11-a",
    policy="evolve/1", queries=512, rollouts=8192, kept=1000, kept_true=0.6,
)  # fmt: skip


def results(table: str, row: str, tests: Sequence[float]) -> list[Result]:
    return [
        replace(RESULT, table=table, row=row, seed=seed, test=test, run=f"seed{seed}-{row}")
        for seed, test in zip(SEEDS, tests, strict=True)
    ]


def table(name: str, tests: Mapping[str, Sequence[float]]) -> Figures:
    """A table whose first row is the baseline."""
    rows = {row: Row() for row in tests}
    asked = Table(title="of tests", baseline=next(iter(tests)), rows=rows)
    found = {one.key: one for row, some in tests.items() for one in results(name, row, some)}
    return figures_of(name, asked, SEEDS, found)


RANDOM = (0.50, 0.55, 0.60)
"""Seeds differ by more than what is compared: only pairs show it."""
BETTER = (0.5400, 0.5901, 0.6399)
APART = (0.525, 0.58, 0.645)
NOISE = (0.55, 0.52, 0.62)


def test_means_are_over_seeds_and_differences_are_paired() -> None:
    found = table("2", {"random": RANDOM, "better": BETTER})
    assert found.lines[0].test == over_seeds(RANDOM)
    (one,) = found.differences
    assert (one.row, one.baseline) == ("better", "random")
    gains = [a - b for a, b in zip(BETTER, RANDOM, strict=True)]
    assert one.found.difference.value == pytest.approx(sum(gains) / 3)
    assert one.apart


def test_p_values_are_adjusted_for_all_tables_together() -> None:
    tables = [
        table("1", {"random": RANDOM, "noise": NOISE}),
        table("2", {"random": RANDOM, "better": BETTER, "apart": APART}),
    ]
    differences = [one for done in adjusted(tables) for one in done.differences]
    raw = [one.found.p for one in differences]
    assert [one.adjusted for one in differences] == holm(raw)
    assert differences[1].adjusted == pytest.approx(3 * raw[1])


def test_one_sentence_says_what_holds_what_is_weak_and_what_is_noise() -> None:
    tests = {"random": RANDOM, "better": BETTER, "apart": APART, "noise": NOISE}
    (done,) = adjusted([table("2", tests)])
    said = sentence(done, 3)
    first, weak, noise = said.split("; ")
    assert first.startswith("After adjustment for 3 comparisons better - random +4.0")
    assert first.endswith("holds")
    assert weak.startswith("apart from zero by its interval alone")
    assert "apart - random +3.3" in weak
    assert noise.startswith("inside the noise of 3 seeds")
    assert "noise - random" in noise


def test_noise_is_told_from_its_narrowest_interval_to_its_widest() -> None:
    """Differences of 5, -3 and 2 points, and twice these."""
    (one,) = adjusted([table("2", {"random": RANDOM, "noise": NOISE})])
    assert "whose intervals reach 10.0 points to either side" in sentence(one, 1)
    wide = (0.60, 0.49, 0.64)
    (two,) = adjusted([table("2", {"random": RANDOM, "noise": NOISE, "wide": wide})])
    assert "whose intervals reach 10.0 to 20.1 points to either side" in sentence(two, 2)


def test_where_nothing_holds_the_sentence_says_so() -> None:
    (done,) = adjusted([table("2", {"random": RANDOM, "noise": NOISE})])
    assert sentence(done, 1).startswith("No difference holds after adjustment for 1 comparisons")
    text, html = page([done])
    assert sentence(done, 1) in text
    assert "No difference holds" in html


def test_what_is_not_known_of_every_seed_is_no_figure() -> None:
    rows = [*results("2", "a", RANDOM), *results("2", "b", NOISE)]
    rows[1] = replace(rows[1], test_true=None)
    asked = Table(title="t", baseline="a", rows={"a": Row(label="The <a>"), "b": Row()})
    found = figures_of("2", asked, SEEDS, {row.key: row for row in rows})
    assert found.lines[0].true is None
    assert found.lines[1].true is not None
    text, html = page([found])
    assert "| The <a> |" in text
    assert "The &lt;a&gt;" in html


def test_rows_that_are_still_the_warm_up_are_named() -> None:
    rows = [*results("2", "a", RANDOM), *results("2", "b", NOISE)]
    rows[4] = replace(rows[4], policy="warmup")
    asked = Table(title="t", baseline="a", rows={"a": Row(), "b": Row()})
    text, _ = page([figures_of("2", asked, SEEDS, {row.key: row for row in rows})])
    assert "which is then what is evaluated: b (1)." in text


# --- results -------------------------------------------------------------------------------------


def test_rows_of_other_steps_are_named() -> None:
    """Pairs of rows that were not trained for equally long; a warm-up is not compared so."""
    rows = {"a": Row(), "b": Row(), "c": Row(policy="warmup")}
    steps = {"a": (60, 61, 60), "b": (60, 61, 60), "c": (0, 0, 0)}

    def found(steps: Mapping[str, Sequence[int]]) -> str:
        some = {
            one.key: replace(one, steps=count)
            for row, counts in steps.items()
            for one, count in zip(results("2", row, RANDOM), counts, strict=True)
        }
        asked = Table(title="of tests", baseline="a", rows=rows)
        return page([figures_of("2", asked, SEEDS, some)])[0]

    equal = "Compared rows were trained for equally many optimizer steps, seed by seed."
    assert equal in found(steps)
    text = found(steps | {"b": (112, 115, 109)})
    assert "Optimizer steps of compared rows that are not equal: b 112, a 60." in text
    assert equal not in text


def test_a_row_that_claims_equal_steps_has_them() -> None:
    asked = Table(title="", baseline="a", rows={"a": Row(), "b": Row(steps_of="a")})
    found = {one.key: one for row in "ab" for one in results("2", row, RANDOM)}
    check_steps("2", asked, found)
    found["2", "b", 12] = replace(found["2", "b", 12], steps=59)
    with pytest.raises(BadConfig, match=r"b seed 12 took 59 optimizer steps, .* as a seed 12, 60"):
        check_steps("2", asked, found)


def test_results_are_read_as_they_are_written_and_replaced_by_cell() -> None:
    rows = results("2", "a", RANDOM)
    assert read_results(written(rows), "here") == rows
    newer = replace(rows[1], test=0.9, run="seed12-other")
    assert with_results(rows, [newer]) == [rows[0], newer, rows[2]]


def test_a_run_is_expected_to_take_as_long_as_its_row_or_as_any() -> None:
    rows = [replace(RESULT, wall_s=100.0), replace(RESULT, row="b", wall_s=300.0)]
    runs = [run_of(12, row="a"), run_of(12, row="c")]
    assert expected_s(runs, rows) == 100.0 + 200.0
    assert expected_s(runs, []) is None


# --- which runs may begin ------------------------------------------------------------------------


def run_of(seed: int, reward: str = "binary", row: str = "a") -> RunOfCells:
    config = Config.model_validate(
        {"run": {"name": f"seed{seed}-{row}", "seed": seed}, "select": {"reward": reward}}
    )
    return runs_of([Cell("2", row, seed, "final", "r", config)])[0]


def test_beside_a_run_of_its_seed_one_begins_when_what_they_share_is_done() -> None:
    first, other, by_prm, again = (
        run_of(11), run_of(11, row="b"), run_of(11, "prm", "c"), run_of(11, "prm", "d")
    )  # fmt: skip
    twelve = run_of(12)
    todo = [first, other, by_prm, again, twelve]
    assert list(startable(todo, [], [])) == [first, twelve]
    assert list(startable(todo[1:], [first], [])) == [twelve]
    # The warm-up is done: what needs no more goes on; a reward model is built by one run alone.
    assert list(startable(todo[1:], [twelve], [first])) == [other]
    assert list(startable([by_prm, again], [], [first, other])) == [by_prm]
    assert list(startable([again], [by_prm], [first, other])) == []
    assert list(startable([again], [other], [first, by_prm])) == [again]


def test_a_run_that_takes_its_steps_from_another_waits_for_it() -> None:
    first, other = run_of(11), run_of(12, row="b")
    takes = replace(run_of(11, row="c").cells[0], steps_of=first.cells[0])
    waiting = runs_of([takes])[0]
    assert with_needed([takes], {}) == [first.cells[0], takes]
    assert with_needed([takes], {first.cells[0].key: RESULT}) == [takes]
    assert list(startable([first, waiting, other], [], [])) == [first, other]
    assert list(startable([waiting], [first], [])) == []
    assert list(startable([waiting], [], [first])) == [waiting]
    assert waiting.with_steps(64).config.evolve.steps == 64
    with pytest.raises(BadConfig, match="table 2 row a seed 11 took no optimizer step"):
        steps_of(first.cells[0], [replace(RESULT, steps=0)])
