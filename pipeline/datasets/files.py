"""Reading data files into raw rows, and the list of everything that is wrong with them.

A row keeps its place (`train.jsonl:12`, `train.parquet row 12`; both count from 1), so whatever is
found wrong with it later can name it. Problems are gathered, not raised one by one: the person who
brings the data sees all of them at once. A published format that is not read yet is refused once,
by its name.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.datasets.cells import is_absent
from pipeline.datasets.formats import file_problem, row_problem, schema_problem
from pipeline.errors import LFS_HINT, LFS_POINTER, BadData, BadRow, BadRows, download_hint

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
# "train.jsonl", "train.parquet" and, as Hugging Face shards them, "train-00000-of-00004.parquet"
# or, in its older data sets, "train-00000-of-00001-abcdef0123456789.parquet".
_SPLIT_FILE = re.compile(
    r"(?P<split>[a-z][a-z0-9_]*)(?:-(?P<part>\d+)-of-(?P<parts>\d+)(?:-[0-9a-f]{16})?)?"
    r"\.(?:jsonl|parquet)"
)
# An index that pandas wrote as a column: to parquet, to a text file, and by reset_index.
_PANDAS_INDEX = re.compile(r"__index_level_\d+__|Unnamed: 0(?:\.\d+)?|index|level_\d")


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

    def raise_if_any(self, path: Path, describe_column: Callable[[str], str]) -> None:
        """Raise one BadRows that lists the problems, a line for each place, in the data's order.

        `describe_column` gives the message for a column that is none of ours.
        """
        if not self.by_place and not self.by_column:
            return
        columns = {column: describe_column(column) for column in sorted(self.by_column)}
        every = {place: list(messages) for place, messages in self.by_place.items()}
        shown = {place: list(messages) for place, messages in self.by_place.items()}
        for column, message in columns.items():
            places = self.by_column[column]
            rows = f" ({len(places):,} rows have it)" if len(places) > 1 else ""
            shown.setdefault(places[0], []).append(message + rows)
            for place in places:
                every.setdefault(place, []).append(message)
        raise bad_rows(
            f"{path}: {len(every)} of {self.rows_seen} rows cannot be used; nothing was started",
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


def data_files(path: Path, usual: Sequence[str] = SPLITS) -> Sequence[tuple[Path, str | None]]:
    """The data files at `path`, each with the split that its name stands for (None for one file).

    Raises:
        BadData: when there is none, when a folder's files are not named after splits, or when none
            of them is a `usual` one.
    """
    if not path.exists():
        hint = download_hint(str(path), "dataset", "data.path")
        raise BadData(f"{path}: no such file or folder (data.path){hint}")
    if not path.is_dir():
        if path.suffix not in SUFFIXES:
            raise BadData(f"{path}: {file_problem(path)}")
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
    if not any(split in usual for _, split in found):
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


def _no_data_files(folder: Path) -> str:
    none = "no .jsonl or .parquet file in this folder"
    below = [part for part in sorted(folder.iterdir()) if part.is_dir() and _visible(part)]
    if below:
        return f"{none}; {below[0]} holds some: give that as data.path"
    others = [file for file in sorted(folder.iterdir()) if file.suffix in (".tsv", ".csv", ".json")]
    return f"{none}; {others[0].name}: {file_problem(others[0])}" if others else none


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
            with file.open("rb") as opened:
                if not (start := opened.read(len(LFS_POINTER))):
                    raise BadData(f"{file}: this file is empty")
            if start == LFS_POINTER:
                raise BadData(f"{file} {LFS_HINT}")
            read = _read_jsonl if file.suffix == ".jsonl" else _read_parquet
            for place, values in read(file, index, problems):
                present = {
                    name: value
                    for name, value in values.items()
                    if not is_absent(value) and not _PANDAS_INDEX.fullmatch(name)
                }
                if problem := row_problem(present):
                    raise BadData(f"{place.text}: {problem}")
                yield Row(place, file, split), present
        except OSError as error:
            raise BadData(f"{file}: cannot be read: {error.strerror or error}") from error
        if problems.rows_seen == seen_before:
            raise BadData(f"{file}: this file holds no rows")


def _read_jsonl(
    file: Path, index: int, problems: Problems
) -> Iterator[tuple[Place, dict[str, Any]]]:
    name = str(file)
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if number == 1 and (problem := _whole_file_problem(line)):
                raise BadData(f"{file}: {problem}")
            if not line.strip():
                continue
            problems.rows_seen += 1
            place = Place(index, number, f"{name}:{number}", name)
            try:
                # A byte order mark is legal at the start of the file, and Windows tools write one.
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                values = _DECODER.decode(text)
            except (ValueError, RecursionError) as error:
                mark = line.startswith(_BYTE_ORDER_MARK) and number > 1
                problems.note(place, f"not JSON: {_JOINED if mark else error}")
                continue
            if isinstance(values, dict):
                yield place, values
            else:
                problems.note(place, "not a JSON object ({...})")


_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_JOINED = (
    "begins with a byte order mark (files that each began with one were joined); take it out, or "
    "give the files one by one, named after splits"
)


def _whole_file_problem(first_line: bytes) -> str | None:
    if first_line.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "this is UTF-16 text; save it as UTF-8"
    if first_line.lstrip(_BYTE_ORDER_MARK + b" \t").startswith(b"["):
        return "a JSON list; JSONL is one object a line, without brackets"
    return None


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
            schema, name = parquet.schema_arrow, str(file)
            if len(set(schema.names)) != len(schema.names):
                raise BadData(f"{file}: two columns have the same name, among {schema.names}")
            if problem := schema_problem(schema):
                raise BadData(f"{file}: {problem}")
            number = 0
            exact = {
                name: f for name in schema.names if (f := _exact_floats(schema.field(name).type))
            }
            for batch in parquet.iter_batches(batch_size=8192):
                for values in _batch_rows(batch):
                    number += 1
                    problems.rows_seen += 1
                    place = Place(index, number, f"{name} row {number}", name)
                    if isinstance(values, str):
                        problems.note(place, values)
                        continue
                    yield place, values | {name: f(values[name]) for name, f in exact.items()}
    except pa.ArrowException as error:
        raise BadData(f"{file}: not a readable parquet file: {error}") from error


def _batch_rows(batch: pa.RecordBatch) -> Iterator[dict[str, Any] | str]:
    """The rows of a batch; for one whose text is not UTF-8, which column that is."""
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:
        for row in range(len(batch)):
            yield _row_of_batch(batch, row)


def _row_of_batch(batch: pa.RecordBatch, row: int) -> dict[str, Any] | str:
    values = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            values[name] = column[row].as_py()
        except UnicodeDecodeError:
            return f"{name} is not valid UTF-8 text"
    return values


def _exact_floats(kind: pa.DataType) -> Callable[[Any], Any] | None:
    """What turns values of fewer than 64 bits into the float of their own shortest decimal.

    The float32 nearest to 0.1 would else be read as 0.10000000149011612.
    """
    if pa.types.is_float32(kind):
        return lambda value: None if value is None else float(str(np.float32(value)))
    if pa.types.is_float16(kind):
        return lambda value: None if value is None else float(str(np.float16(value)))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        inner = _exact_floats(kind.value_type)
        if inner is not None:
            return lambda values: None if values is None else [inner(value) for value in values]
    return None


# Made once: `json.loads` with hooks would make one for every line.
_DECODER = json.JSONDecoder(object_pairs_hook=_no_repeats, parse_constant=_constant)
