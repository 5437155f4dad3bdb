"""Cells of an ablation: one figure each, of a table, a row and a seed; and the runs they come from.

What always holds: a run has its name from the content of its settings, so rows of one content are
one run, in whichever tables they stand, and a row whose settings were changed is another run. The
settings of a run that takes its steps from another run's figures are that run's name, too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from pipeline.ablation.recipe import Ablation, Row, Settings, nearest
from pipeline.config.resume import config_hash
from pipeline.config.schema import Config
from pipeline.errors import BadConfig
from pipeline.hashing import sha256_hex

Key = tuple[str, str, int]
"""Table, row, seed."""

Base = Callable[[list[str]], Config]
"""The base recipe with section.key=value overrides applied."""


@dataclass(frozen=True)
class Cell:
    """One figure. policy: which one of the run is evaluated. recipe: hash of the settings that all
    rows of the ablation have in common. steps_of: the cell whose optimizer steps its run takes."""

    table: str
    row: str
    seed: int
    policy: str
    recipe: str
    config: Config
    steps_of: Cell | None = None

    @property
    def key(self) -> Key:
        return self.table, self.row, self.seed

    @property
    def run(self) -> str:
        """Name of the run that it is a figure of."""
        return self.config.run.name

    def __str__(self) -> str:
        return f"table {self.table} row {self.row} seed {self.seed}"


def cells_of(ablation: Ablation, base: Base, changes: Sequence[str] = ()) -> list[Cell]:
    """Every cell, seed by seed: the first seed of all tables, then the second.

    changes: section.key=value of every row, whatever the recipe says.

    Raises:
        BadConfig: a row's settings do not exist or cannot work together, or two rows of a table are
            the same; naming table and row.
    """
    common = config_hash(_configured(base, ablation.set, changes, "set"))
    found: list[tuple[int, Cell]] = []
    for table, one in ablation.tables.items():
        rows = {row: _row_config(ablation, base, changes, table, row) for row in one.rows}
        _check_different(ablation, table, rows)
        for rank, seed in enumerate(ablation.seeds_of(table)):
            cells = {
                row: Cell(table, row, seed, one.rows[row].policy, common, _named(config, seed))
                for row, config in rows.items()
            }
            found += [
                (rank, _with_steps(cell, one.rows[row], cells)) for row, cell in cells.items()
            ]
    return [cell for _, cell in sorted(found, key=lambda item: item[0])]


def _with_steps(cell: Cell, row: Row, cells: Mapping[str, Cell]) -> Cell:
    """The same cell, of a run that takes its steps from another cell's, if the row says so."""
    if not row.steps_of:
        return cell
    other = cells[row.steps_of]
    config = _named(cell.config, cell.seed, other.run)
    return replace(cell, config=config, steps_of=other)


def _row_config(
    ablation: Ablation, base: Base, changes: Sequence[str], table: str, row: str
) -> Config:
    settings = ablation.settings(table, row)
    said = {*settings, *(change.partition("=")[0].strip() for change in changes)}
    own = sorted({"run.name", "run.seed"} & said)
    if own:
        raise BadConfig(f"table {table} row {row}: {', '.join(own)} is given by the cell")
    return _configured(base, settings, changes, f"table {table} row {row}")


def _configured(base: Base, settings: Settings, changes: Sequence[str], where: str) -> Config:
    overrides = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    try:
        return base([*overrides, *changes])
    except BadConfig as error:
        raise BadConfig(f"{where} cannot be run: {error}") from error


def _named(config: Config, seed: int, steps_of: str = "") -> Config:
    run = config.run.model_copy(update={"seed": seed})
    config = config.model_copy(update={"run": run})
    content = config_hash(config)
    if steps_of:
        content = sha256_hex(f"{content}/{steps_of}".encode())
    name = f"seed{seed}-{content[:12]}"
    return config.model_copy(update={"run": run.model_copy(update={"name": name})})


def _check_different(ablation: Ablation, table: str, rows: Mapping[str, Config]) -> None:
    first: dict[tuple[str, str], str] = {}
    for row, config in rows.items():
        content = config_hash(config), ablation.tables[table].rows[row].policy
        if (same := first.setdefault(content, row)) != row:
            raise BadConfig(f"table {table}: rows {same} and {row} have the same settings")


def chosen(
    cells: Sequence[Cell],
    tables: Collection[str],
    rows: Collection[str],
    seeds: Collection[int],
) -> list[Cell]:
    """The cells of these tables, rows and seeds; of what is empty, all.

    Raises:
        BadConfig: no cell has such a table, row or seed; with the nearest name there is.
    """
    kept = list(cells)
    asked = (
        ("table", "--table", [str(name) for name in tables]),
        ("row", "--row", [str(name) for name in rows]),
        ("seed", "--seed", [str(seed) for seed in seeds]),
    )
    for kind, option, wanted in asked:
        there = list(dict.fromkeys(str(getattr(cell, kind)) for cell in kept))
        for word in wanted:
            if word not in there:
                raise BadConfig(f"{option} {word}: no such {kind}{nearest(word, there)}")
        if wanted:
            kept = [cell for cell in kept if str(getattr(cell, kind)) in wanted]
    if not kept:
        raise BadConfig("no cell has all of these tables, rows and seeds")
    return kept


# --- the runs ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RunOfCells:
    """A run, and the cells that are figures of it."""

    config: Config
    cells: tuple[Cell, ...]

    @property
    def name(self) -> str:
        return self.config.run.name

    @property
    def shares(self) -> tuple[int, str]:
        """What it has in common with other runs before its first iteration: its seed's warm-up,
        and a process reward model where it builds one."""
        return self.config.run.seed, self.config.select.reward

    @property
    def steps_of(self) -> Cell | None:
        """The cell whose optimizer steps it takes."""
        return self.cells[0].steps_of

    def with_steps(self, steps: int) -> RunOfCells:
        """The same run, now that it is known how many optimizer steps it takes."""
        evolve = self.config.evolve.model_copy(update={"steps": steps})
        return replace(self, config=self.config.model_copy(update={"evolve": evolve}))

    def __str__(self) -> str:
        return "; ".join(map(str, self.cells))


def with_needed(cells: Iterable[Cell], have: Collection[Key]) -> list[Cell]:
    """Some cells to compute, and before each the one that its run takes its steps from, if that has
    no result yet."""
    found: dict[Key, Cell] = {}
    for cell in cells:
        if cell.steps_of is not None and cell.steps_of.key not in have:
            found.setdefault(cell.steps_of.key, cell.steps_of)
        found.setdefault(cell.key, cell)
    return list(found.values())


def runs_of(cells: Iterable[Cell]) -> list[RunOfCells]:
    """The runs of some cells, each once, in the order of their first cells."""
    found: dict[str, list[Cell]] = {}
    for cell in cells:
        found.setdefault(cell.run, []).append(cell)
    return [RunOfCells(cells[0].config, tuple(cells)) for cells in found.values()]


def startable(
    waiting: Sequence[RunOfCells], under_way: Iterable[RunOfCells], done: Iterable[RunOfCells]
) -> Iterator[RunOfCells]:
    """The runs that may begin beside those under way, in order.

    One that would compute what another is just computing waits for it: beside a run of its seed it
    begins only once a run that shares as much with it is done. One that takes its steps from
    another's waits for that.
    """
    under_way = list(under_way)
    busy, computed = {run.shares[0] for run in under_way}, {run.shares for run in done}
    to_come = {run.name for run in (*waiting, *under_way)}
    for run in waiting:
        if run.steps_of is not None and run.steps_of.run in to_come:
            continue
        if run.shares in computed or run.shares[0] not in busy:
            busy.add(run.shares[0])
            yield run
