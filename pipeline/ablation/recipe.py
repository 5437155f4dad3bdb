"""The recipe of an ablation: which tables, which rows, which settings and seeds (one YAML file).

    base: digits                      the recipe of a run that every row begins from
    seeds: [11, 12, 13]
    set: {data.test_queries: 1080}    settings of all rows, by dotted key
    tables:
      "1":
        title: Training methods
        baseline: continuous-25       the row that the others are compared with
        rows:
          rest-em: {set: {evolve.method: rest_em, evolve.interval: 1}, paper: [42.3, 55.1]}
    profiles:
      small: {seeds: [1, 2], set: {evolve.iterations: 2}}

Of two values for one setting the nearer one holds: the row's, the table's, the profile's, then
`set` of the whole.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from pipeline.config.load import read_mapping
from pipeline.config.section import Section
from pipeline.errors import BadConfig

Settings = dict[str, Any]
Seeds = tuple[int, ...]


class Row(Section):
    """One line of a table."""

    label: str = ""
    """What the page calls it; empty: its name."""
    set: Settings = Field(default_factory=dict)
    """Settings of its run, by dotted key."""
    policy: Literal["base", "warmup", "control", "final"] = "final"
    """Which policy of its run is evaluated."""
    steps_of: str = ""
    """Row of the same table whose optimizer steps its run takes, seed by seed (`evolve.steps`);
    empty: as its settings say."""
    paper: tuple[float, float] | None = None
    """The paper's figures in percent: MathV360K held out (750), MathVista testmini (1,000)."""


class Table(Section):
    """Rows that are compared with one of them."""

    title: str
    """Heading on the page."""
    baseline: str
    """The row that all others are compared with, seed by seed."""
    seeds: Seeds | None = None
    """Seeds of this table; null: those of the recipe."""
    set: Settings = Field(default_factory=dict)
    """Settings of all its rows."""
    rows: dict[str, Row] = Field(min_length=2)
    """By name, in the order of the page."""
    also: tuple[tuple[str, str], ...] = ()
    """Further pairs of rows whose difference is reported: [row, its baseline]."""

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """All comparisons of the table, each a row and what it is compared with."""
        others = [(name, self.baseline) for name in self.rows if name != self.baseline]
        return [*others, *self.also]


class Profile(Section):
    """A smaller form of the whole."""

    seeds: Seeds | None = None
    """Seeds of every table; null: as they are."""
    set: Settings = Field(default_factory=dict)
    """Settings of all rows that a table's and a row's own take precedence over."""
    rows: dict[str, tuple[str, ...]] | None = None
    """Rows of each table that are part of it; null: all tables with all rows."""
    without: tuple[str, ...] = ()
    """Settings of tables and rows that do not hold in it."""


class Ablation(Section):
    """All tables."""

    base: str
    """Recipe of a run, by name or file, that every row begins from."""
    seeds: Seeds
    """Seeds of tables that do not name their own."""
    set: Settings = Field(default_factory=dict)
    """Settings of all rows."""
    tables: dict[str, Table] = Field(min_length=1)
    """By name, in the order of the page."""
    profiles: dict[str, Profile] = Field(default_factory=dict)
    """By name."""

    def seeds_of(self, table: str) -> Seeds:
        """Seeds of a table."""
        return self.tables[table].seeds or self.seeds

    def settings(self, table: str, row: str) -> Settings:
        """What a row sets, all layers together."""
        one = self.tables[table]
        return {**self.set, **one.set, **one.rows[row].set}


def read_ablation(path: Path, profile: str | None = None) -> Ablation:
    """The recipe in a file, in the form of one of its profiles.

    Raises:
        BadConfig: unreadable, an unknown key, a comparison with a row that is not there, fewer than
            two seeds, an unknown profile; naming the file and the key.
    """
    try:
        found = Ablation.model_validate(read_mapping(path))
    except ValidationError as error:
        lines = [
            f"{path}: {'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()
        ]
        raise BadConfig("\n".join(lines)) from error
    if profile is not None:
        found = _in_profile(found, profile, path)
    problems = list(_problems(found))
    if problems:
        raise BadConfig("\n".join(f"{path}: {problem}" for problem in problems))
    return found


def _in_profile(ablation: Ablation, name: str, path: Path) -> Ablation:
    if name not in ablation.profiles:
        raise BadConfig(f"{path} has no profile {name!r}{nearest(name, ablation.profiles)}")
    profile, tables = ablation.profiles[name], {}
    for table, rows in (profile.rows or dict.fromkeys(ablation.tables)).items():
        if table not in ablation.tables:
            raise BadConfig(f"{path}: profiles.{name}.rows: no table {table!r}"
                            f"{nearest(table, ablation.tables)}")  # fmt: skip
        whole = ablation.tables[table]
        missing = [row for row in rows or () if row not in whole.rows]
        if missing:
            raise BadConfig(f"{path}: profiles.{name}.rows.{table}: no row {missing[0]!r}"
                            f"{nearest(missing[0], whole.rows)}")  # fmt: skip
        kept = {
            row: one.model_copy(update={"set": _less(one.set, profile)})
            for row, one in whole.rows.items()
            if rows is None or row in rows
        }
        also = tuple(pair for pair in whole.also if set(pair) <= kept.keys())
        changes = {"rows": kept, "also": also, "seeds": profile.seeds or whole.seeds}
        tables[table] = whole.model_copy(update={**changes, "set": _less(whole.set, profile)})
    seeds, settings = profile.seeds or ablation.seeds, {**ablation.set, **profile.set}
    return ablation.model_copy(update={"tables": tables, "set": settings, "seeds": seeds})


def _less(settings: Mapping[str, Any], profile: Profile) -> Settings:
    return {key: value for key, value in settings.items() if key not in profile.without}


def _problems(ablation: Ablation) -> Iterator[str]:
    for name, table in ablation.tables.items():
        seeds = ablation.seeds_of(name)
        if len(set(seeds)) != len(seeds) or len(seeds) < 2:
            yield (
                f"tables.{name}: seeds {list(seeds)}: an interval over seeds needs two different "
                "ones or more"
            )
        asked = {f"tables.{name}.baseline": [table.baseline]}
        asked[f"tables.{name}.also"] = [row for pair in table.also for row in pair]
        asked |= {
            f"tables.{name}.rows.{row}.steps_of": [one.steps_of]
            for row, one in table.rows.items()
            if one.steps_of
        }
        for where, rows in asked.items():
            for row in rows:
                if row not in table.rows:
                    yield f"{where}: no row {row!r} in this table{nearest(row, table.rows)}"
        yield from _step_problems(name, table)


def _step_problems(name: str, table: Table) -> Iterator[str]:
    """Rows that take their optimizer steps from a row that cannot give them."""
    for row, one in table.rows.items():
        other, where = table.rows.get(one.steps_of), f"tables.{name}.rows.{row}.steps_of"
        if other is None:
            continue
        if other.steps_of or other.policy in ("base", "warmup"):
            yield f"{where}: row {one.steps_of!r} has no steps of its own to give"
        if "evolve.steps" in one.set:
            yield f"{where}: the row sets evolve.steps as well; leave one of the two out"


def nearest(word: str, words: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: the nearest there is, and all of them."""
    names = list(words)
    near = difflib.get_close_matches(word, names, n=1)
    hint = f": did you mean {near[0]!r}?" if near else "."
    return f"{hint} There are {', '.join(names) or 'none'}"
