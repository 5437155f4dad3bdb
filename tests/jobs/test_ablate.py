"""`mstar-ray ablate` over scripted roles: every run once, whatever stops it; tables that hold."""

from __future__ import annotations

import json
import subprocess
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from jobs.ablate.__main__ import Asked, ablate, only_page
from jobs.ablate.runs import Runner, Started, start_run
from jobs.report import finished
from jobs.runtime.code_identity import PACKAGES, commit
from pipeline.errors import BadConfig, BadData
from tests.support.ablations import TABLES, Failing, InProcess, ManyAtOnce, write_ablation
from tests.support.jobs import mstar


def asked(folder: Path, recipe: Path, **changes: Any) -> Asked:
    return Asked(recipe=str(recipe), results=folder / "results.json", **changes)


def results(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "results.json").read_text())
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[InProcess]]:
    """A small ablation that was interrupted in its second run, and given again."""
    folder = tmp_path_factory.mktemp("ablation")
    recipe = write_ablation(folder)
    first, second = InProcess(interrupt_at=22), InProcess()
    with pytest.raises(KeyboardInterrupt):
        ablate(asked(folder, recipe), start=first)
    assert 1 < len(first.begun) < 6
    assert 0 < len(results(folder)) < 10
    assert ablate(asked(folder, recipe), start=second) == 0
    return folder, recipe, [first, second]


def test_an_interrupted_ablation_computes_no_finished_cell_again(
    whole: tuple[Path, Path, list[InProcess]],
) -> None:
    folder, recipe, (first, second) = whole
    assert {(row["table"], row["row"], row["seed"]) for row in results(folder)} == {
        (table, row, seed)
        for table, one in TABLES.items()
        for row in one["rows"]
        for seed in (5, 6)
    }
    # Three runs a seed; only the one that was interrupted is begun again.
    assert len({path.parent.name for path in first.begun + second.begun}) == 6
    assert [path for path in second.begun if path in first.begun] == [first.begun[-1]]
    third = InProcess()
    assert ablate(asked(folder, recipe), start=third) == 0
    assert third.begun == []


def test_a_run_is_found_by_its_folder_though_its_store_holds_others(
    whole: tuple[Path, Path, list[InProcess]],
) -> None:
    folder, *_ = whole
    for name in {row["run"] for row in results(folder)}:
        by_folder, by_name = finished(folder / "runs" / name), finished(folder / "runs", name)
        assert (by_folder.name, by_folder.wires) == (name, by_name.wires)
    with pytest.raises(BadConfig, match="Name one with --run"):
        finished(folder / "runs")


def test_what_runs_have_in_common_is_done_once(
    whole: tuple[Path, Path, list[InProcess]],
) -> None:
    folder, _, starts = whole
    done = [
        event
        for name in {row["run"] for row in results(folder)}
        for event in finished(folder / "runs", name).wires
        if event["type"] == "job_done"
    ]
    trained = Counter(event["key"] for event in done if not event.get("adopted"))
    assert set(trained.values()) == {1}
    assert sum(event["job"] == "warmup/0" and bool(event.get("adopted")) for event in done) == 4
    workers = [scripted for start in starts for _, scripted in start.workers]
    generated = Counter(key for one in workers for key in one.fleet.generated)
    assert set(generated.values()) == {1}


def test_a_cell_is_what_its_run_says(whole: tuple[Path, Path, list[InProcess]]) -> None:
    folder, _, _ = whole
    rows = {(row["table"], row["row"], row["seed"]): row for row in results(folder)}
    for row in rows.values():
        run = finished(folder / "runs", row["run"])
        name = "warmup" if row["row"] == "warmup" else "final"
        outcomes = run.outcomes(name, "test").values()
        assert row["test"] == pytest.approx(sum(outcomes) / len(outcomes))
        assert row["n"] == len(outcomes) == 5
        assert run.seed == row["seed"]
        assert row["policy"] == run.state.finished.get(name, name)  # type: ignore[union-attr]
        assert (row["test_true"], row["kept_true"], row["ood"]) == (None, None, None)
        sampled = sum(one["samples"] for one in run.state.iterations)
        assert row["rollouts"] == (None if name == "warmup" else sampled)
        steps = 0 if name == "warmup" else sum(one["steps"] for one in run.state.iterations)
        assert row["steps"] == steps
    for seed in (5, 6):
        shared = {rows[cell]["run"] for cell in [("1", "all", seed), ("2", "every", seed)]}
        assert shared == {rows["1", "warmup", seed]["run"]}
        assert rows["2", "random-1", seed]["kept"] < rows["2", "every", seed]["kept"]


def test_the_page_has_every_row_as_markdown_and_as_html(
    whole: tuple[Path, Path, list[InProcess]],
) -> None:
    folder, _, _ = whole
    text = (folder / "results.md").read_text()
    for words in (
        "## Table 1: methods", "## Table 2: selection", "| warmup |", "| again |", "| random-1 |",
        "43.1 / 57.2", "Comparisons on this page: 3.", "Seeds: 5, 6.", "recipe: ", "hardware: ",
        "of 2 seeds",
    ):  # fmt: skip
        assert words in text
    page = (folder / "results.html").read_text()
    assert page.count("<table>") == 2
    assert page.count("<tr>") == 2 + 3 + 2
    cells = [cell.strip() for line in text.splitlines() if line.startswith("| ")
             for cell in line.strip("|").split("|")]  # fmt: skip
    assert all(f">{cell}<" in page for cell in cells if cell and "'" not in cell)


GOLD = {"set": {"evolve.method": "sft"}, "steps_of": "random-1"}


def test_one_cell_and_what_it_needs_and_no_page_without_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = {"2": {**TABLES["2"], "rows": {"gold": GOLD, **TABLES["2"]["rows"]}}}
    recipe, start = write_ablation(tmp_path, tables), InProcess()
    one = asked(tmp_path, recipe, tables=["2"], rows=["gold"], seeds=[6])
    assert ablate(one, start=start) == 0
    # The row whose steps it takes comes first.
    random, gold = results(tmp_path)
    assert [(row["row"], row["seed"]) for row in (random, gold)] == [("random-1", 6), ("gold", 6)]
    assert random["steps"] == gold["steps"] > 0
    assert random["policy"] == "evolve/1"
    assert len(start.begun) == 2
    said = capsys.readouterr().err
    assert "run 1 of 2: table 2 row random-1 seed 6" in said
    missing = "gold (seeds 5); every (seeds 5, 6); random-1 (seeds 5)"
    assert f"table 2 is not on the page yet, it misses {missing}" in said
    assert not (tmp_path / "results.md").exists()
    with pytest.raises(BadConfig, match=r"table 2 misses gold \(seeds 5\); every"):
        only_page(asked(tmp_path, recipe, tables=["2"]))
    again = InProcess()
    assert ablate(one, start=again) == 0
    assert again.begun == []


def test_several_at_once_and_none_beside_one_that_computes_what_it_needs(tmp_path: Path) -> None:
    recipe = write_ablation(tmp_path, {"2": TABLES["2"]})
    start = ManyAtOnce(InProcess())
    assert ablate(asked(tmp_path, recipe, at_once=3), start=start) == 0
    assert max(len(runs) for runs in start.seen) == 2
    # The second run of a seed begins when the first is done.
    assert all(len({run.split("-")[0] for run in runs}) == len(runs) for runs in start.seen[:2])
    assert len(results(tmp_path)) == 4


@pytest.mark.parametrize("code", [1, 2])
def test_a_run_that_fails_ends_it_with_its_last_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], code: int
) -> None:
    recipe = write_ablation(tmp_path)
    assert ablate(asked(tmp_path, recipe), start=Failing(code)) == code
    said = capsys.readouterr().err
    assert f"ended with exit code {code}; " in said
    assert "begun\nerror: no such thing" in said


def test_a_run_that_says_it_is_done_and_is_not_is_a_failure(tmp_path: Path) -> None:
    recipe = write_ablation(tmp_path)
    assert ablate(asked(tmp_path, recipe), start=Failing(0)) == 1
    assert not (tmp_path / "results.json").exists()


def test_an_interrupted_run_interrupts(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        ablate(asked(tmp_path, write_ablation(tmp_path)), start=Failing(130))


def ended(started: Started) -> int:
    try:
        while (code := started.code()) is None:
            time.sleep(0.1)
    finally:
        started.stop()
    return code


def test_runs_after_each_other_are_of_one_process_with_exit_codes_and_logs(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("run: {sede: 3}")
    with closing(Runner()) as runner:
        started = [runner(recipe, tmp_path / f"{number}.txt") for number in range(2)]
        codes: list[int] = []
        while len(codes) < 2:
            codes += [code for one in started if (code := one.code()) is not None]
            time.sleep(0.05)
    assert codes == [2, 2]
    for number in range(2):
        assert "unknown key 'run.sede'" in (tmp_path / f"{number}.txt").read_text()


@pytest.mark.slow
def test_after_a_process_that_ended_the_next_run_has_another(tmp_path: Path) -> None:
    recipe, log = tmp_path / "recipe.yaml", tmp_path / "log.txt"
    recipe.write_text("run: {sede: 3}")
    with closing(Runner()) as runner:
        first = runner(recipe, log)
        first.stop()
        assert first.code()
        assert ended(runner(recipe, log)) == 2
    assert "unknown key 'run.sede'" in log.read_text()


@pytest.mark.slow
def test_a_run_has_a_process_of_its_own_where_several_are_under_way(tmp_path: Path) -> None:
    recipe, log = tmp_path / "recipe.yaml", tmp_path / "log.txt"
    recipe.write_text("run: {sede: 3}")
    assert ended(start_run(recipe, log)) == 2
    assert "unknown key 'run.sede'" in log.read_text()


def test_the_commit_of_the_code_is_not_that_of_results(tmp_path: Path) -> None:
    def git(*command: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", str(tmp_path), *who, *command], check=True)

    for name in (*PACKAGES, "docs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("1")
    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "code")
    code = commit(tmp_path)
    assert code
    (tmp_path / "docs" / "file").write_text("2")
    assert commit(tmp_path) == code
    git("commit", "-qam", "results")
    assert commit(tmp_path) == code
    (tmp_path / "jobs" / "file").write_text("2")
    assert commit(tmp_path) == f"{code}-dirty"


# --- what is refused -----------------------------------------------------------------------------


def test_a_table_of_mixed_versions_is_refused_by_cell(
    whole: tuple[Path, Path, list[InProcess]], tmp_path: Path
) -> None:
    _, recipe, _ = whole
    rows = results(whole[0])
    for row in rows:
        if (row["table"], row["row"], row["seed"]) == ("2", "random-1", 6):
            row["commit"], row["grader"] = "another", "9"
    (tmp_path / "results.json").write_text(json.dumps(rows))
    with pytest.raises(BadConfig, match="table 2 would mix versions") as refused:
        only_page(asked(tmp_path, recipe))
    assert "  commit another: random-1 seed 6" in str(refused.value)
    assert "  grader 9: random-1 seed 6" in str(refused.value)
    with pytest.raises(BadConfig, match="grader 9"):
        only_page(asked(tmp_path, recipe, across=["commit"]))
    only_page(asked(tmp_path, recipe, across=["commit", "grader"]))
    assert "another" in (tmp_path / "results.md").read_text()


def test_a_table_begun_by_another_version_is_not_gone_on_with(
    whole: tuple[Path, Path, list[InProcess]], tmp_path: Path
) -> None:
    _, recipe, _ = whole
    rows = [row for row in results(whole[0]) if (row["row"], row["seed"]) != ("random-1", 6)]
    older = [row | {"commit": "older"} for row in rows]
    (tmp_path / "results.json").write_text(json.dumps(older))
    start = InProcess()
    with pytest.raises(BadConfig, match="table 2 has results of other versions") as refused:
        ablate(asked(tmp_path, recipe), start=start)
    assert f"  commit older, now {rows[0]['commit']}: every seed 5" in str(refused.value)
    assert start.begun == []
    # The run itself is in the store: its cell is taken up, and no process is begun.
    assert ablate(asked(tmp_path, recipe, across=["commit"]), start=start) == 0
    assert start.begun == []
    assert len(results(tmp_path)) == len(rows) + 1


def test_results_of_other_settings_are_no_results_of_a_row(
    whole: tuple[Path, Path, list[InProcess]], tmp_path: Path
) -> None:
    folder, recipe, _ = whole
    (tmp_path / "results.json").write_text((folder / "results.json").read_text())
    with pytest.raises(BadConfig, match="misses every"):
        only_page(asked(tmp_path, recipe, changes=["generate.samples=2"]))


CHANGES: list[tuple[dict[str, Any], list[str], list[str]]] = [
    ({}, ["--table", "3"], ["--table 3: no such table", "There are 1, 2"]),
    ({}, ["--row", "random-2"], ["--row random-2: no such row: did you mean 'random-1'?"]),
    ({}, ["--seed", "7"], ["--seed 7: no such seed", "There are 5, 6"]),
    ({}, ["--profile", "tiny"], ["has no profile 'tiny'"]),
    ({}, ["--set", "run.seed=3"], ["run.seed is given by the cell"]),
    ({}, ["--across", "weather"], ["--across weather", "commit, recipe, base, grader"]),
    ({"seeds": [5]}, [], ["tables.1: seeds [5]", "two different ones"]),
    ({"sedes": [5]}, [], ["tables.yaml: sedes: Extra inputs are not permitted"]),
    ({"base": "nowhere"}, [], ["no recipe 'nowhere'"]),
    ({"set": {"evolve.intervall": 1}}, [], ["unknown key 'evolve.intervall'", "evolve.interval"]),
]


@pytest.mark.parametrize(("changes", "options", "words"), CHANGES)
def test_bad_input_is_refused_before_anything_is_started(
    tmp_path: Path, changes: dict[str, Any], options: list[str], words: list[str]
) -> None:
    recipe = write_ablation(tmp_path, **changes)
    done = mstar("ablate", "--recipe", recipe, "--json", tmp_path / "r.json", *options)
    assert done.exit_code == 2, done.output
    for word in words:
        assert word in done.output
    assert not (tmp_path / "runs").exists()


ROWS: list[tuple[dict[str, Any], str]] = [
    ({"set": {"evolve.methdo": "sft"}}, "table 1 row odd cannot be run: "),
    ({"set": {"evolve.method": "rest_em"}}, "table 1 row odd cannot be run: evolve.method"),
    ({"set": {"run.seed": 3}}, "table 1 row odd: run.seed is given by the cell"),
    ({}, "table 1: rows all and odd have the same settings"),
    (
        {"set": {"learn.ranks": 4096, "learn.batch_size": 4096, "learn.window": 4096}},
        "table 1 row odd seed 5 cannot be run: learn.ranks = 4096",
    ),
    ({"policy": "best"}, "tables.1.rows.odd.policy"),
    ({"steps_of": "al"}, "tables.1.rows.odd.steps_of: no row 'al' in this table: did you mean"),
    ({"steps_of": "warmup"}, "odd.steps_of: row 'warmup' has no steps of its own to give"),
    ({"steps_of": "all", "set": {"evolve.steps": 2}}, "odd.steps_of: the row sets evolve.steps"),
]


@pytest.mark.parametrize(("row", "words"), ROWS)
def test_a_row_that_cannot_be_run_is_refused_by_name(
    tmp_path: Path, row: dict[str, Any], words: str
) -> None:
    tables = {"1": {**TABLES["1"], "rows": {**TABLES["1"]["rows"], "odd": row}}}
    recipe = write_ablation(tmp_path, tables)
    done = mstar("ablate", "--recipe", recipe, "--json", tmp_path / "r.json")
    assert done.exit_code == 2, done.output
    assert words in done.output
    assert not list((tmp_path / "runs").glob("seed*/recipe.yaml"))


@pytest.mark.parametrize(
    ("text", "words"),
    [("{", "not JSON"), ("{}", "a list of results"), ('[{"table": "1"}]', "record 0: missing")],
)
def test_a_file_of_other_things_is_no_results(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(BadData, match=words):
        ablate(asked(tmp_path, write_ablation(tmp_path)), start=InProcess())


def test_a_profile_leaves_rows_and_settings_out(tmp_path: Path) -> None:
    profile = {
        "seeds": [7, 8], "rows": {"1": ["all", "again"]}, "set": {"evolve.iterations": 1},
        "without": ["evolve.iterations"],
    }  # fmt: skip
    recipe = write_ablation(tmp_path, profiles={"small": profile})
    _, cells = asked(tmp_path, recipe, profile="small").recipe_and_cells()
    assert {(cell.table, cell.row, cell.seed) for cell in cells} == {
        ("1", row, seed) for row in ("all", "again") for seed in (7, 8)
    }
    assert {cell.config.evolve.iterations for cell in cells} == {1}


def test_the_recipe_of_exploration_gives_its_control_as_many_rollouts() -> None:
    """Within a twentieth: samples are whole numbers."""
    _, cells = Asked(recipe="exploration").recipe_and_cells()
    rollouts = {}
    for cell in cells:
        config = cell.config
        drawn = int(4000 * config.evolve.interval) * config.evolve.iterations
        searches = len(range(0, config.evolve.iterations, config.explore.every or 9))
        grid = len(config.explore.grid) * config.explore.samples
        asked_of = config.data.validation_queries or 0
        rollouts[cell.row] = drawn * config.generate.samples + (
            searches * grid * asked_of if config.explore.every else 0
        )
    assert rollouts["sound"] == rollouts["argmax"] == 42_400
    assert rollouts["static"] == pytest.approx(42_400, rel=0.05)
    assert rollouts["static-8"] == 22_400


def test_the_shipped_recipe_can_be_run_row_by_row() -> None:
    """Every arm's settings exist and go together; what arms share is one run."""
    ablation, cells = Asked().recipe_and_cells()
    runs = {cell.key: cell.run for cell in cells}
    for seed in ablation.seeds_of("2"):
        assert runs["1", "continuous-25", seed] == runs["2", "all-correct", seed]
        shared = {runs[table, row, seed] for table, row in
                  (("2", "top-2-prm"), ("recipe", "prm"), ("prm", "top-2-prm"))}  # fmt: skip
        assert len(shared) == 1
    assert all(cell.config.warmup.epochs_per_evaluation == cell.config.warmup.epochs
               for cell in cells)  # fmt: skip
    drawn = {
        (cell.table, cell.row): cell.config.evolve.iterations * cell.config.evolve.interval
        for cell in cells
    }
    assert set(drawn.values()) == {2}, "every arm sees its pool twice"
    assert {cell.config.evolve.final for cell in cells} == {"last"}
    assert {
        (cell.table, cell.row, cell.steps_of.row) for cell in cells if cell.steps_of is not None
    } == {("1", "sft", "continuous-25"), ("recipe", "sft", "prm")}
    assert len(ablation.seeds_of("recipe")) == 5
    assert len(ablation.seeds_of("prm")) == 11
    _, small = Asked(profile="small").recipe_and_cells()
    assert {cell.config.evolve.iterations for cell in small} == {2}
    assert {cell.seed for cell in small}.isdisjoint(cell.seed for cell in cells)
