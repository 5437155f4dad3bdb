"""The paper's tables over seeds, on one recipe: `mstar-ray ablate`, `make ablate`.

Every cell (a table, a row, a seed) is a figure of a run; all runs lie in one store, where what
several of them need (warm-up, process reward model, first iterations) is found by content. A run is
what `mstar-ray run` does with the recipe that is written beside its outputs, so a person can do by
hand what is done here. One process does them one after the other and keeps Ray, engines and ranks;
with --at-once each has a process of its own. Results are put into the JSON file as soon as a run is
finished; whatever stops this command, started again it goes on with the run that was under way and
computes no finished cell again.

This module only wires: which cells, which runs and what they show is in `pipeline.ablation`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from jobs.ablate.runs import Runner, Start, compute, start_run
from jobs.ablate.store import ResultsFile, checked, placed, present_versions
from jobs.runtime.cli import command, say
from jobs.runtime.recipes import RECIPES, load_recipe, recipe_path
from pipeline.ablation.cells import Cell, cells_of, chosen, runs_of, with_needed
from pipeline.ablation.page import page
from pipeline.ablation.recipe import Ablation, read_ablation
from pipeline.ablation.results import (
    VERSIONED,
    Result,
    check_present,
    check_steps,
    check_versions,
    missing_cells,
    of_cells,
)
from pipeline.ablation.table import figures_of
from pipeline.errors import BadConfig


@dataclass(frozen=True)
class Asked:
    """What an ablation is asked for.

    recipe: name or file. tables, rows, seeds: which cells; empty: all. changes: section.key=value
    of every run. at_once: runs under way together. results: the JSON file; the page lies beside it.
    across: fields of `VERSIONED` that may differ within a table.
    """

    recipe: str = "ablate"
    profile: str | None = None
    tables: Sequence[str] = ()
    rows: Sequence[str] = ()
    seeds: Sequence[int] = ()
    changes: Sequence[str] = ()
    at_once: int = 1
    results: Path = Path("docs/results/ablate.json")
    across: Sequence[str] = field(default=())

    def recipe_and_cells(self) -> tuple[Ablation, list[Cell]]:
        """The recipe, and all its cells.

        Raises:
            BadConfig: unreadable, or a row cannot be run; naming it.
        """
        unknown = [name for name in self.across if name not in VERSIONED]
        if unknown:
            raise BadConfig(f"--across {unknown[0]}: a version is one of {', '.join(VERSIONED)}")
        ablation = read_ablation(recipe_path(self.recipe, RECIPES / "tables"), self.profile)
        base = partial(load_recipe, ablation.base)
        return ablation, [placed(cell) for cell in cells_of(ablation, base, self.changes)]


def ablate(asked: Asked, *, dry_run: bool = False, start: Start | None = None) -> int:
    """Compute the cells that have no result yet, then write the page; the exit code of a run that
    failed, else 0.

    start: begins a run; None: as a process (a test hands in a scripted one).

    Raises:
        BadConfig, BadData: before anything is started, naming what does not fit.
    """
    ablation, cells = asked.recipe_and_cells()
    wanted = chosen(cells, asked.tables, asked.rows, asked.seeds)
    file = ResultsFile(asked.results)
    have = of_cells(cells, file.read())
    missing = [cell for cell in wanted if cell.key not in have]
    todo = runs_of(with_needed(missing, have))
    there = len(wanted) - len(missing)
    say(f"{len(wanted)} cells, {there} have results in {file.path}; {len(todo)} runs to do")
    if dry_run:
        for run in todo:
            say(f"{run.name}: {run}")
        return 0
    for table in {cell.table for run in todo for cell in run.cells}:
        own = of_cells((cell for cell in cells if cell.table == table), file.read())
        check_present(table, own.values(), present_versions(todo[0].config), asked.across)
    checked(todo, say)
    with closing(Runner()) as runner:
        alone = asked.at_once == 1 and todo and todo[0].config.cluster.address is None
        start = start or (runner if alone else start_run)
        code = compute(todo, file, start, at_once=asked.at_once, say=say)
    if code == 0:
        write_page(ablation, cells, file, asked.across)
    return code


def only_page(asked: Asked) -> None:
    """The page of the results there are.

    Raises:
        BadConfig: a table that is asked for misses cells, or mixes versions.
    """
    ablation, cells = asked.recipe_and_cells()
    tables = list(dict.fromkeys(cell.table for cell in chosen(cells, asked.tables, (), ())))
    file = ResultsFile(asked.results)
    lines = [
        f"table {table} misses {missing}"
        for table, missing in _missing(tables, cells, file.read()).items()
    ]
    if lines:
        raise BadConfig("\n".join(["cells are missing:", *lines, _COMPUTE]))
    some = ablation.model_copy(update={"tables": {t: ablation.tables[t] for t in tables}})
    write_page(some, cells, file, asked.across)


_COMPUTE = "Compute them (--table, --row and --seed pick some), or name complete tables (--table)."


def write_page(
    ablation: Ablation, cells: Sequence[Cell], file: ResultsFile, across: Sequence[str]
) -> None:
    """The page of the tables that have all their cells, beside the results; what is missing is
    said."""
    results = file.read()
    missing, tables = _missing(list(ablation.tables), cells, results), []
    for name, table in ablation.tables.items():
        if name in missing:
            say(f"table {name} is not on the page yet, it misses {missing[name]}")
            continue
        own = of_cells((cell for cell in cells if cell.table == name), results)
        check_versions(name, list(own.values()), across)
        check_steps(name, table, own)
        tables.append(figures_of(name, table, ablation.seeds_of(name), own))
    if not tables:
        return
    texts = zip((".md", ".html"), page(tables), strict=True)
    for suffix, text in texts:
        path = file.path.with_suffix(suffix)
        path.write_text(text, "utf-8")
        print(path)


def _missing(
    tables: Sequence[str], cells: Sequence[Cell], results: Sequence[Result]
) -> dict[str, str]:
    """The tables without all their cells, and which these are."""
    found = {}
    for table in tables:
        own = [cell for cell in cells if cell.table == table]
        if missing := missing_cells(own, of_cells(own, results)):
            found[table] = missing
    return found


if __name__ == "__main__":
    command("ablate")
