"""A table of an ablation in figures: means over seeds, differences, and one sentence about them.

Axes: R seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pipeline.ablation.cells import Key
from pipeline.ablation.recipe import Row, Table
from pipeline.ablation.results import Result
from pipeline.metrics.comparisons import Comparison, holm, paired_over_seeds
from pipeline.metrics.intervals import Estimate, over_seeds
from pipeline.reports.seeds import points

ALPHA = 0.05


@dataclass(frozen=True)
class Line:
    """A row over its seeds. true, kept_true, ood: None where it is not known or not evaluated.
    steps_R: optimizer steps after the warm-up, by seed. unmoved: seeds whose policy is the warm-up:
    validation found none better, or nothing was trained."""

    name: str
    row: Row
    test: Estimate
    true: Estimate | None
    kept_true: Estimate | None
    ood: Estimate | None
    steps_R: tuple[int, ...]
    queries: float
    rollouts: float | None
    wall_s: float
    unmoved: int

    @property
    def steps(self) -> float:
        """Their mean."""
        return sum(self.steps_R) / len(self.steps_R)


@dataclass(frozen=True)
class Difference:
    """A row minus another, on test accuracy. adjusted: p by Holm, over all of a page."""

    row: str
    baseline: str
    found: Comparison
    adjusted: float

    @property
    def holds(self) -> bool:
        """Whether it is more than noise, for as many comparisons as were made."""
        return self.adjusted < ALPHA

    @property
    def apart(self) -> bool:
        """Whether its own interval is on one side of zero."""
        low, high = self.found.difference.ci95
        return low > 0 or high < 0

    def __str__(self) -> str:
        one = self.found.difference
        return f"{self.row} - {self.baseline} {points(one.value, one.ci95)}"


@dataclass(frozen=True)
class Figures:
    """A table in figures. n: test questions. versions: of its results, field by field."""

    name: str
    table: Table
    seeds: tuple[int, ...]
    lines: tuple[Line, ...]
    differences: tuple[Difference, ...]
    n: int
    versions: Mapping[str, tuple[str, ...]]


def figures_of(
    name: str, table: Table, seeds: Sequence[int], results: Mapping[Key, Result]
) -> Figures:
    """A table of a result for each of its rows and seeds. Its p values are not adjusted yet."""
    by_row = {row: [results[name, row, seed] for seed in seeds] for row in table.rows}
    tests = {row: {one.seed: one.test for one in some} for row, some in by_row.items()}
    differences = []
    for row, baseline in table.pairs:
        found = paired_over_seeds(tests[row], tests[baseline])
        differences.append(Difference(row, baseline, found, found.p))
    every = [one for some in by_row.values() for one in some]
    return Figures(
        name,
        table,
        tuple(seeds),
        tuple(_line(row, table.rows[row], some) for row, some in by_row.items()),
        tuple(differences),
        every[0].n,
        {
            field: tuple(dict.fromkeys(getattr(one, field) for one in every))
            for field in ("commit", "recipe", "base", "grader", "hardware")
        },
    )


def _line(name: str, row: Row, results_R: Sequence[Result]) -> Line:
    def mean(values_R: Sequence[float]) -> float:
        return sum(values_R) / len(values_R)

    rollouts = [one.rollouts for one in results_R if one.rollouts is not None]
    return Line(
        name,
        row,
        over_seeds([one.test for one in results_R]),
        _where_known([one.test_true for one in results_R]),
        _where_known([one.kept_true for one in results_R]),
        _where_known([one.ood for one in results_R]),
        tuple(one.steps for one in results_R),
        mean([one.queries for one in results_R]),
        mean(rollouts) if len(rollouts) == len(results_R) else None,
        mean([one.wall_s for one in results_R]),
        sum(one.policy == "warmup" for one in results_R) if row.policy != "warmup" else 0,
    )


def _where_known(values_R: Sequence[float | None]) -> Estimate | None:
    known = [value for value in values_R if value is not None]
    return over_seeds(known) if len(known) == len(values_R) else None


def adjusted(tables: Sequence[Figures]) -> list[Figures]:
    """The same tables with p values adjusted for all the comparisons that they make together."""
    values = iter(holm([one.found.p for table in tables for one in table.differences]))
    return [
        replace(
            table,
            differences=tuple(replace(one, adjusted=next(values)) for one in table.differences),
        )
        for table in tables
    ]


# --- in words ------------------------------------------------------------------------------------


def sentence(table: Figures, comparisons: int) -> str:
    """What a table shows, what it does not, and what is inside the noise.

    comparisons: how many all tables of the page make, for which p values are adjusted.
    """
    holds = [one for one in table.differences if one.holds]
    alone = [one for one in table.differences if one.apart and not one.holds]
    noise = [one for one in table.differences if not one.apart and not one.holds]
    parts = [
        f"after adjustment for {comparisons} comparisons {_listed(holds)} {_hold(holds)}"
        if holds
        else f"no difference holds after adjustment for {comparisons} comparisons"
    ]
    if alone:
        parts.append(
            f"apart from zero by its interval alone, weak evidence among so many comparisons: "
            f"{_listed(alone)}"
        )
    if noise:
        halves = [f"{100 * half:.1f}" for half in sorted(map(_half, noise))]
        reach = " to ".join(dict.fromkeys((halves[0], halves[-1])))
        parts.append(
            f"inside the noise of {len(table.seeds)} seeds, whose intervals reach {reach} points "
            f"to either side: {_listed(noise)}"
        )
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def _listed(differences: Sequence[Difference]) -> str:
    return ", ".join(map(str, differences))


def _hold(differences: Sequence[Difference]) -> str:
    return "holds" if len(differences) == 1 else "hold"


def _half(one: Difference) -> float:
    low, high = one.found.difference.ci95
    return (high - low) / 2
