"""Reading data files into raw rows, and the list of everything that is wrong with them.

A row keeps its place (`train.jsonl:12`, `train.parquet row 12`; both count from 1), so whatever is
found wrong with it later can name it. Problems are gathered, not raised one by one: the person who
brings the data sees all of them at once.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import BadData

SPLITS = ("train", "validation", "test")

SUFFIXES = (".jsonl", ".parquet")

_SPLIT_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")

_SPLIT_ALIASES = {
    "val": "validation",
    "valid": "validation",
    "dev": "validation",
    "eval": "validation",
    "training": "train",
    "testing": "test",
}

# "train.jsonl", "train.parquet" and, as other tools shard them, "train-00000-of-00004.parquet".
_SPLIT_FILE = re.compile(r"(?P<split>[a-z][a-z0-9_]*)(?:-\d+-of-\d+)?\.(?:jsonl|parquet)")


class Place(NamedTuple):
    """Where something stands in the data: sorts as the data does, reads as `file:line`."""

    file_index: int
    number: int
    text: str


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
    """What is wrong with a data set, by place."""

    listed: int
    rows_seen: int = 0
    by_place: dict[Place, list[str]] = field(default_factory=dict)

    def note(self, place: Place, message: str) -> None:
        """Record one problem of the row or file at `place`."""
        self.by_place.setdefault(place, []).append(message)

    def raise_if_any(self, path: Path) -> None:
        """Raise one BadData that lists the problems, a line for each place, in the data's order."""
        if not self.by_place:
            return
        bad = len(self.by_place)
        places = sorted(self.by_place)[: self.listed]
        lines = [f"{place.text}: {'; '.join(self.by_place[place])}" for place in places]
        if bad > len(lines):
            lines.append(f"and {bad - len(lines)} more")
        head = f"{path}: {bad} of {self.rows_seen} rows cannot be used; nothing was started"
        raise BadData("\n  ".join([head, *lines]))


def split_problem(name: str) -> str | None:
    """Why this is no name for a split, or None; names beside `SPLITS` are further test sets."""
    meant = _SPLIT_ALIASES.get(name.lower(), name.lower())
    if name != meant and meant in SPLITS:
        return f"unknown split {name!r}; did you mean {meant!r}?"
    if not _SPLIT_NAME.fullmatch(name):
        return f"{name!r} is no split name (small letters, digits and _)"
    return None


def data_files(path: Path, usual: Sequence[str] = SPLITS) -> Sequence[tuple[Path, str | None]]:
    """The data files at `path`, each with the split that its name stands for (None for one file).

    Raises:
        BadData: when there is none, when a folder's files are not named after splits, or when none
            of them is a `usual` one.
    """
    if not path.exists():
        raise BadData(f"{path}: no such file or folder (data.path)")
    if not path.is_dir():
        if path.suffix not in SUFFIXES:
            raise BadData(f"{path}: a data file is .jsonl (an object a line) or .parquet")
        return [(path, None)]
    files = [file for file in path.iterdir() if file.suffix in SUFFIXES]
    if not files:
        raise BadData(f"{path}: no .jsonl or .parquet file in this folder")
    found = sorted(((file, _split_of(file)) for file in files), key=_by_split)
    suffixes: dict[str, str] = {}
    for file, split in found:
        if suffixes.setdefault(split, file.suffix) != file.suffix:
            raise BadData(f"{path}: {split} is there as .jsonl and as .parquet; keep one of them")
    if not any(split in usual for _, split in found):
        names = ", ".join(file.name for file, _ in found)
        raise BadData(
            f"{path}: none of {names} is named after a split ({', '.join(dict.fromkeys(usual))}); "
            "rename them, or give one file as data.path"
        )
    return found


def _split_of(file: Path) -> str:
    match = _SPLIT_FILE.fullmatch(file.name)
    if match is None:
        raise BadData(f"{file}: files in a folder are named after splits, as in train.jsonl")
    if problem := split_problem(match["split"]):
        raise BadData(f"{file}: {problem}")
    return match["split"]


def _by_split(item: tuple[Path, str]) -> tuple[int, str]:
    """The usual splits first, in their usual order; then the others by name."""
    file, split = item
    return (SPLITS.index(split) if split in SPLITS else len(SPLITS), file.name)


def read_rows(
    files: Sequence[tuple[Path, str | None]], problems: Problems
) -> Iterator[tuple[Row, dict[str, Any]]]:
    """The rows of the data files, in their order, each with its values but the absent (null, NaN).

    Lines that are no rows go to `problems`.

    Raises:
        BadData: when a file as a whole cannot be read, or holds no rows.
    """
    for index, (file, split) in enumerate(files):
        seen_before = problems.rows_seen
        try:
            if file.stat().st_size == 0:
                raise BadData(f"{file}: this file is empty")
            read = _read_jsonl if file.suffix == ".jsonl" else _read_parquet
            for place, values in read(file, index, problems):
                present = {key: value for key, value in values.items() if not _absent(value)}
                yield Row(place, file, split), present
        except OSError as error:
            raise BadData(f"{file}: cannot be read: {error.strerror or error}") from error
        if problems.rows_seen == seen_before:
            raise BadData(f"{file}: this file holds no rows")


def _absent(value: Any) -> bool:
    """Null; or NaN, which is how pandas writes a missing value."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def _read_jsonl(
    file: Path, index: int, problems: Problems
) -> Iterator[tuple[Place, dict[str, Any]]]:
    name = str(file)
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            if number == 1 and line.lstrip(b"\xef\xbb\xbf \t").startswith(b"["):
                raise BadData(f"{file}: a JSON list; JSONL is one object a line, without brackets")
            problems.rows_seen += 1
            place = Place(index, number, f"{name}:{number}")
            try:
                # A byte order mark is legal at the start of the file, and Windows tools write one.
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                values = _DECODER.decode(text)
            except (ValueError, RecursionError) as error:
                problems.note(place, f"not JSON: {error}")
                continue
            if isinstance(values, dict):
                yield place, values
            else:
                problems.note(place, "not a JSON object ({...})")


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """JSON allows a key twice and readers take one of them silently; refuse instead."""
    values = dict(pairs)
    if len(values) != len(pairs):
        keys = [key for key, _ in pairs]
        repeated = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {repeated!r} stands twice")
    return values


def _constant(name: str) -> float:
    """NaN is what pandas writes for a missing value; the infinities mean nothing here."""
    if name == "NaN":
        return math.nan
    raise ValueError(f"{name} is no JSON value")


def _read_parquet(
    file: Path, index: int, problems: Problems
) -> Iterator[tuple[Place, dict[str, Any]]]:
    try:
        with pq.ParquetFile(file) as parquet:
            names = parquet.schema_arrow.names
            if len(set(names)) != len(names):
                raise BadData(f"{file}: two columns have the same name, among {names}")
            number, name = 0, str(file)
            for batch in parquet.iter_batches(batch_size=8192):
                for values in batch.to_pylist():
                    number += 1
                    problems.rows_seen += 1
                    yield Place(index, number, f"{name} row {number}"), values
    except pa.ArrowException as error:
        raise BadData(f"{file}: not a readable parquet file: {error}") from error


# Made once: `json.loads` with hooks would make one for every line.
_DECODER = json.JSONDecoder(object_pairs_hook=_no_repeats, parse_constant=_constant)
