"""The results of an ablation: one record for each cell that is computed, and which belong together.

What always holds: a result belongs to a cell only while both are of the same run, which is named by
the content of its settings; and a table is made of results of one version (`VERSIONED`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields

from pipeline.ablation.cells import Cell, Key, RunOfCells
from pipeline.ablation.recipe import Table
from pipeline.errors import BadConfig, BadData

VERSIONED = ("commit", "recipe", "base", "grader")
"""What must be the same for all results of a table."""


@dataclass(frozen=True)
class Result:
    """The figures of one cell (`pipeline.ablation.figures`; shares are between 0 and 1).

    run: the run that it is a figure of. wall_s: seconds its drivers were at work, without what they
    found in the store. recipe: hash of the settings that all rows have in common. base: version of
    the base policy. hardware: of the machine that drove. policy: which
    of the run is evaluated; of final and control the one that validation chose.
    """

    table: str
    row: str
    seed: int
    test: float
    test_true: float | None
    ood: float | None
    n: int
    steps: int
    wall_s: float
    commit: str
    recipe: str
    base: str
    grader: str
    hardware: str
    run: str
    policy: str
    queries: int
    rollouts: int | None
    kept: int | None
    kept_true: float | None

    @property
    def key(self) -> Key:
        return self.table, self.row, self.seed

    def __str__(self) -> str:
        return f"{self.row} seed {self.seed}"


def read_results(text: str, where: str) -> list[Result]:
    """The results in a JSON file's text.

    Raises:
        BadData: it is not a list of them, or has a cell twice; naming the file and the record.
    """
    try:
        rows = json.loads(text)
    except ValueError as error:
        raise BadData(f"{where}: not JSON: {error}") from error
    names = {field.name for field in fields(Result)}
    if not isinstance(rows, list):
        raise BadData(f"{where}: a list of results is expected, not a {type(rows).__name__}")
    found: dict[Key, Result] = {}
    for number, row in enumerate(rows):
        if not isinstance(row, dict) or row.keys() != names:
            odd = sorted(names ^ set(row)) if isinstance(row, dict) else [type(row).__name__]
            raise BadData(f"{where}: record {number}: missing or unknown: {', '.join(odd)}")
        result = Result(**row)
        if result.key in found:
            raise BadData(f"{where}: record {number}: {result} of table {result.table} twice")
        found[result.key] = result
    return list(found.values())


def written(results: Iterable[Result]) -> str:
    """Their JSON."""
    return json.dumps([asdict(result) for result in results], indent=1) + "\n"


def with_results(results: Sequence[Result], new: Sequence[Result]) -> list[Result]:
    """Some results with others put in their places, or after them."""
    found = {result.key: result for result in results}
    return list((found | {result.key: result for result in new}).values())


def of_cells(cells: Iterable[Cell], results: Iterable[Result]) -> dict[Key, Result]:
    """The results of these cells, as far as there are; none of a row whose settings were others."""
    found = {(result.key, result.run): result for result in results}
    return {cell.key: found[cell.key, cell.run] for cell in cells if (cell.key, cell.run) in found}


def steps_of(cell: Cell, results: Iterable[Result]) -> int:
    """Optimizer steps of a cell that has a result.

    Raises:
        BadConfig: it took none, so that no run can take as many.
    """
    steps = of_cells([cell], results)[cell.key].steps
    if not steps:
        raise BadConfig(f"{cell} took no optimizer step, and another row is to take as many")
    return steps


def missing_cells(cells: Iterable[Cell], results: Mapping[Key, Result]) -> str:
    """The cells without a result in words, by row; empty: all have one."""
    seeds: dict[str, list[str]] = {}
    for cell in cells:
        if cell.key not in results:
            seeds.setdefault(cell.row, []).append(str(cell.seed))
    return "; ".join(f"{row} (seeds {', '.join(some)})" for row, some in seeds.items())


def expected_s(runs: Iterable[RunOfCells], results: Sequence[Result]) -> float | None:
    """Seconds that runs may take: each as long as its row took with other seeds, or as the mean of
    all; None where nothing has been computed yet."""
    took: dict[tuple[str, str], list[float]] = {}
    for result in results:
        took.setdefault((result.table, result.row), []).append(result.wall_s)
    if not results:
        return None
    mean = sum(result.wall_s for result in results) / len(results)
    rows = [took.get((run.cells[0].table, run.cells[0].row), [mean]) for run in runs]
    return sum(sum(some) / len(some) for some in rows)


def check_versions(table: str, results: Sequence[Result], across: Sequence[str] = ()) -> None:
    """Refuse a table of mixed versions. across: fields that may differ, because a person says so.

    Raises:
        BadConfig: naming each field that differs, its values, and the cells that have them.
    """
    lines = []
    for name in VERSIONED:
        cells: dict[str, list[str]] = {}
        for result in results:
            cells.setdefault(getattr(result, name), []).append(str(result))
        if len(cells) > 1 and name not in across:
            lines += [f"  {name} {value}: {', '.join(some)}" for value, some in cells.items()]
    if lines:
        raise BadConfig(
            "\n".join([f"table {table} would mix versions, and its differences with them:", *lines])
            + _MIXED
        )


def check_steps(name: str, table: Table, results: Mapping[Key, Result]) -> None:
    """Refuse a table whose rows of equal steps have taken others.

    Raises:
        BadConfig: naming the rows, the seed, and the steps of both.
    """
    for row, one in table.rows.items():
        for result in [found for found in results.values() if one.steps_of and found.row == row]:
            other = results[name, one.steps_of, result.seed]
            if result.steps != other.steps:
                raise BadConfig(
                    f"table {name}: {result} took {result.steps} optimizer steps, and is to take "
                    f"as many as {other}, {other.steps}: one of them was computed again and the "
                    "other was not. Move the results file and run.out away, and compute both"
                )


def check_present(
    table: str, results: Iterable[Result], now: Mapping[str, str], across: Sequence[str] = ()
) -> None:
    """Refuse to add to a table whose results are of other versions than what would be computed.

    now: fields of `VERSIONED` that are known before anything runs.

    Raises:
        BadConfig: naming each field, its present value, and the cells that have another one.
    """
    lines = [
        f"  {name} {getattr(result, name)}, now {value}: {result}"
        for result in results
        for name, value in now.items()
        if getattr(result, name) != value and name not in across
    ]
    if lines:
        raise BadConfig(
            "\n".join([f"table {table} has results of other versions, and would mix them:", *lines])
            + _MIXED
        )


_MIXED = (
    "\nGo back to the version they are of, or move the results file and run.out away and compute "
    "all of it again, or say that it may mix them (--across)"
)
