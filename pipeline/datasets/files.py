"""Which files a data set is, where a row stands in them, and the list of what is wrong with them.

A row keeps its place (`train.jsonl:12`, `train.parquet row 12`; both count from 1), so whatever is
found wrong with it later can name it. Problems are gathered, not raised one by one: the person who
brings the data sees all of them at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from pipeline.errors import BadData, BadRow, BadRows, download_hint

SPLITS = ("train", "validation", "test")
# What a folder of files named after splits is made of; a single file may be of another kind too.
SUFFIXES = (".jsonl", ".parquet")
SINGLE_SUFFIXES = (*SUFFIXES, ".json", ".tsv")
_SPLIT_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_SPLIT_ALIASES = {
    "val": "validation",
    "valid": "validation",
    "dev": "validation",
    "eval": "validation",
    "training": "train",
    "testing": "test",
}
# "train.jsonl", "train.parquet" and, as Hugging Face shards them, "train-00000-of-00004.parquet"
# or, in its older data sets, "train-00000-of-00001-abcdef0123456789.parquet".
_SPLIT_FILE = re.compile(
    r"(?P<split>[a-z][a-z0-9_]*)(?:-(?P<part>\d+)-of-(?P<parts>\d+)(?:-[0-9a-f]{16})?)?"
    r"\.(?:jsonl|parquet)"
)


class Place(NamedTuple):
    """Where something stands in the data: sorts as the data does, reads as `file:line`."""

    file_index: int
    number: int
    text: str
    file: str


@dataclass(frozen=True)
class Row:
    """Where a row comes from; `file_split` is the split that its file is named after."""

    place: Place
    file: Path
    file_split: str | None

    @property
    def default_id(self) -> str:
        """File name and row number: what names a row that brings no id."""
        return f"{self.file.stem}:{self.place.number}"


@dataclass
class Problems:
    """What is wrong with a data set, by place.

    by_column: the places of rows that have a column which is none of ours. All of them are bad rows
    and only the first says so in the message.
    """

    listed: int
    rows_seen: int = 0
    by_place: dict[Place, list[str]] = field(default_factory=dict)
    by_column: dict[str, list[Place]] = field(default_factory=dict)

    def note(self, place: Place, message: str) -> None:
        """Record one problem of the row or file at `place`."""
        self.by_place.setdefault(place, []).append(message)

    def note_columns(self, place: Place, columns: Iterable[str]) -> None:
        """Record that the row at `place` has columns that are none of ours."""
        for column in columns:
            self.by_column.setdefault(column, []).append(place)

    def bad_places(self) -> set[Place]:
        """The places that have a problem."""
        return {*self.by_place, *(place for places in self.by_column.values() for place in places)}

    def bad_rows(self, describe_column: Callable[[str], str]) -> tuple[BadRow, ...]:
        """Every bad row with all of its reasons, in the data's order."""
        return as_rows(self._every(describe_column))

    def _every(self, describe_column: Callable[[str], str]) -> dict[Place, list[str]]:
        every = {place: list(messages) for place, messages in self.by_place.items()}
        for column in sorted(self.by_column):
            for place in self.by_column[column]:
                every.setdefault(place, []).append(describe_column(column))
        return every

    def raise_if_any(
        self, path: Path, describe_column: Callable[[str], str], way_out: str = ""
    ) -> None:
        """Raise one BadRows that lists the problems, a line for each place, in the data's order.

        `describe_column` gives the message for a column that is none of ours.
        """
        if not self.by_place and not self.by_column:
            return
        every = self._every(describe_column)
        shown = {place: list(messages) for place, messages in self.by_place.items()}
        for column, places in sorted(self.by_column.items()):
            rows = f" ({len(places):,} rows have it)" if len(places) > 1 else ""
            shown.setdefault(places[0], []).append(describe_column(column) + rows)
        raise bad_rows(
            f"{path}: {len(every)} of {self.rows_seen} rows cannot be used; nothing was started"
            f"{way_out}",
            every,
            shown,
            self.listed,
        )


def bad_rows(
    head: str, every: Mapping[Place, list[str]], shown: Mapping[Place, list[str]], listed: int
) -> BadRows:
    """The error that holds every bad row, and lists the first of those to be shown."""
    places = sorted(shown)
    lines = [f"{place.text}: {'; '.join(shown[place])}" for place in places[:listed]]
    unlisted = len(places) - len(lines)
    if unlisted:
        lines.append(f"and {unlisted} more")
    return BadRows("\n  ".join([head, *lines]), as_rows(every), len(every) - len(places[:listed]))


def as_rows(every: Mapping[Place, list[str]]) -> tuple[BadRow, ...]:
    """Bad rows by place as the error carries them, in the data's order."""
    return tuple(BadRow(place.file, place.number, tuple(every[place])) for place in sorted(every))


def split_problem(name: str) -> str | None:
    """Why this is no name for a split, or None; names beside `SPLITS` are further test sets."""
    meant = _SPLIT_ALIASES.get(name.lower(), name.lower())
    if name != meant and meant in SPLITS:
        return f"unknown split {name!r}; did you mean {meant!r}?"
    if not _SPLIT_NAME.fullmatch(name):
        return f"{name!r} is no split name (small letters, digits and _)"
    return None


def data_files(path: Path, usual: Sequence[str] = ()) -> Sequence[tuple[Path, str | None]]:
    """The data files at `path`, each with the split that its name stands for (None for one file).

    usual: splits of which one has to be there; none: whatever there is.

    Raises:
        BadData: when there is none, when a folder's files are not named after splits, or when none
            of them is a `usual` one.
    """
    if not path.exists():
        hint = download_hint(str(path), "dataset", "data.path")
        raise BadData(f"{path}: no such file or folder (data.path){hint}")
    if not path.is_dir():
        if path.suffix not in SINGLE_SUFFIXES:
            raise BadData(f"{path}: {_file_problem(path)}")
        return [(path, None)]
    files = _visible(path)
    if not files:
        raise BadData(f"{path}: {_no_data_files(path)}")
    found = sorted(((file, _split_of(file)) for file in files), key=_by_split)
    suffixes: dict[str, str] = {}
    for file, split in found:
        if suffixes.setdefault(split, file.suffix) != file.suffix:
            raise BadData(f"{path}: {split} is there as .jsonl and as .parquet; keep one of them")
    if missing := _missing_part(file.name for file, _ in found):
        raise BadData(f"{path}: {missing} is missing, or the names of the others are wrong")
    if usual and not any(split in usual for _, split in found):
        names = ", ".join(file.name for file, _ in found)
        raise BadData(
            f"{path}: none of {names} is named after a split ({', '.join(dict.fromkeys(usual))}); "
            "rename them, or give one file as data.path"
        )
    return found


def _visible(folder: Path) -> list[Path]:
    """The data files of a folder, without what other systems hide there (`._train.jsonl`)."""
    names = (file for file in folder.iterdir() if not file.name.startswith("."))
    return [file for file in names if file.suffix in SUFFIXES]


def _file_problem(file: Path) -> str:
    """Why a file of this kind is not read, and what to do."""
    kinds = "a data file is .jsonl (an object a line), .json (one list), .tsv or .parquet"
    if file.suffix == ".csv":
        return f"{kinds}; pandas.read_csv and to_json(orient='records', lines=True) convert a .csv"
    if ".zip" in file.suffixes or file.suffix in (".tar", ".gz", ".7z", ".rar"):
        return f"an archive; unpack it, and give the data file or the folder in it ({kinds})"
    return kinds


def _no_data_files(folder: Path) -> str:
    none = "no .jsonl or .parquet file in this folder"
    below = [part for part in sorted(folder.iterdir()) if part.is_dir() and _visible(part)]
    if below:
        return f"{none}; {below[0]} holds some: give that as data.path"
    single = [file for file in sorted(folder.iterdir()) if file.suffix in SINGLE_SUFFIXES]
    if single:
        return f"{none}; {single[0]} may be one: give it as data.path"
    others = [file for file in sorted(folder.iterdir()) if file.suffix in (".csv", ".zip")]
    return f"{none}; {others[0].name}: {_file_problem(others[0])}" if others else none


def _split_of(file: Path) -> str:
    match = _SPLIT_FILE.fullmatch(file.name)
    if match is None:
        raise BadData(f"{file}: files in a folder are named after splits, as in train.jsonl")
    if problem := split_problem(match["split"]):
        raise BadData(f"{file}: {problem}")
    return match["split"]


def _missing_part(names: Iterable[str]) -> str | None:
    """The first part that data files in parts lack: of 00000-of-00002 alone, 00001-of-00002."""
    there: dict[tuple[str, str], set[int]] = {}
    for name in names:
        match = _SPLIT_FILE.fullmatch(name)
        if match is not None and match["part"]:
            there.setdefault((match["split"], match["parts"]), set()).add(int(match["part"]))
    for (split, parts), numbers in there.items():
        first = 0 if 0 in numbers else 1
        for number in range(first, first + int(parts)):
            if number not in numbers:
                return f"{split}-{number:0{len(parts)}}-of-{parts}"
    return None


def _by_split(item: tuple[Path, str]) -> tuple[int, str]:
    """The usual splits first, in their usual order; then the others by name."""
    file, split = item
    return (SPLITS.index(split) if split in SPLITS else len(SPLITS), file.name)
