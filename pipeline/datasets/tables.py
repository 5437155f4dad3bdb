"""Raw rows of a data file of any kind (.jsonl, .json, .tsv, .parquet), one in memory at a time.

A row is a dictionary of what stands in the file, with its place; what its columns mean is decided
elsewhere (`rows`). Lines that are no rows go to `Problems`; a file that as a whole is not what it
is named after is refused.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.datasets.files import Place, Problems
from pipeline.errors import LFS_HINT, LFS_POINTER, BadData

Values = dict[str, Any]
Rows = Iterator[tuple[Place, Values]]

# A row of a parquet file with images may have megabytes: few are decoded at a time.
_BATCH, _BATCH_OF_BYTES = 8192, 64
# The most characters of a cell: base64 of the largest image that is taken (`images.Limits`).
_MAX_CELL = 64 << 20
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_JOINED = (
    "begins with a byte order mark (files that each began with one were joined); take it out, or "
    "give the files one by one, named after splits"
)


def read_table(file: Path, index: int, problems: Problems) -> Rows:
    """The rows of a data file, in their order. index: of the file in the data set, for `Place`.

    Raises:
        BadData: when the file as a whole cannot be read, or holds no rows.
    """
    seen_before = problems.rows_seen
    try:
        with file.open("rb") as opened:
            if not (start := opened.read(len(LFS_POINTER))):
                raise BadData(f"{file}: this file is empty")
        if start == LFS_POINTER:
            raise BadData(f"{file} {LFS_HINT}")
        yield from _READERS[file.suffix](file, index, problems)
    except OSError as error:
        raise BadData(f"{file}: cannot be read: {error.strerror or error}") from error
    if problems.rows_seen == seen_before:
        raise BadData(f"{file}: this file holds no rows")


def _row_place(file: Path, index: int, number: int) -> Place:
    return Place(index, number, f"{file} row {number}", str(file))


# -- JSON --------------------------------------------------------------------------------------


def _read_jsonl(file: Path, index: int, problems: Problems) -> Rows:
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


def _whole_file_problem(first_line: bytes) -> str | None:
    if first_line.startswith(_UTF16):
        return "this is UTF-16 text; save it as UTF-8"
    if first_line.lstrip(_BYTE_ORDER_MARK + b" \t").startswith(b"["):
        return (
            "a JSON list; JSONL is one object a line, without brackets. If the complete file is "
            "one list, name it .json"
        )
    return None


def _read_json(file: Path, index: int, problems: Problems) -> Rows:
    """A list of objects, or an object of objects by id (`pid`), decoded one row at a time."""
    data = file.read_bytes()
    if data.startswith(_UTF16):
        raise BadData(f"{file}: this is UTF-16 text; save it as UTF-8")
    try:
        text = data.decode("utf-8-sig")
        del data
        for number, (key, values) in enumerate(_json_items(text), start=1):
            problems.rows_seen += 1
            place = _row_place(file, index, number)
            if not isinstance(values, dict):
                problems.note(place, "not a JSON object ({...})")
            elif key is None or "pid" in values:
                yield place, values
            else:
                yield place, {"pid": key, **values}
    except (ValueError, RecursionError) as error:
        raise BadData(
            f"{file}: not JSON: {error}; a .json file is one list of objects, or an object of "
            "objects by id (one object a line is .jsonl)"
        ) from error


def _json_items(text: str) -> Iterator[tuple[str | None, Any]]:
    """The members of the one list or object that a text is, each with its key.

    Raises:
        ValueError: the text is none.
    """
    at = _after_space(text, 0)
    closing = {"[": "]", "{": "}"}.get(text[at : at + 1])
    if closing is None:
        raise ValueError("neither a list nor an object")
    at = _after_space(text, at + 1)
    while text[at : at + 1] != closing:
        key = None
        if closing == "}":
            key, at = _DECODER.raw_decode(text, at)
            at = _after_space(text, at)
            if text[at : at + 1] != ":":
                raise ValueError(f"':' is missing at character {at}")
            at = _after_space(text, at + 1)
        value, at = _DECODER.raw_decode(text, at)
        yield key, value
        at = _after_space(text, at)
        if text[at : at + 1] == ",":
            at = _after_space(text, at + 1)
        elif text[at : at + 1] != closing:
            raise ValueError(f"it ends, or ',' is missing, at character {at}")
    if text[at + 1 :].strip():
        raise ValueError(f"something follows its end, at character {at + 1}")


def _after_space(text: str, at: int) -> int:
    while text[at : at + 1] in (" ", "\n", "\r", "\t"):
        at += 1
    return at


def _no_repeats(pairs: list[tuple[str, Any]]) -> Values:
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


# Made once: `json.loads` with hooks would make one for every line.
_DECODER = json.JSONDecoder(object_pairs_hook=_no_repeats, parse_constant=_constant)


# -- tab-separated values ----------------------------------------------------------------------


def _read_tsv(file: Path, index: int, problems: Problems) -> Rows:
    """A header and rows of texts; quoted cells may hold tabs and line ends. Empty: absent."""
    limit = csv.field_size_limit(_MAX_CELL)
    try:
        with file.open(encoding="utf-8-sig", newline="") as text:
            table = csv.reader(text, delimiter="\t")
            header = next(table)
            if len(set(header)) != len(header):
                raise BadData(f"{file}: two columns have the same name, among {header}")
            for number, cells in enumerate(table, start=1):
                problems.rows_seen += 1
                place = _row_place(file, index, number)
                if len(cells) != len(header):
                    problems.note(place, f"{len(cells)} cells, and the header has {len(header)}")
                    continue
                pairs = zip(header, cells, strict=True)
                yield place, {name: cell if cell != "" else None for name, cell in pairs}
    except (UnicodeDecodeError, csv.Error, StopIteration) as error:
        raise BadData(f"{file}: not a table of tab-separated values: {error}") from error
    finally:
        csv.field_size_limit(limit)


# -- parquet -----------------------------------------------------------------------------------


def _read_parquet(file: Path, index: int, problems: Problems) -> Rows:
    try:
        # `pre_buffer` would hold every row group that was read.
        with pq.ParquetFile(file, pre_buffer=False) as parquet:
            schema = parquet.schema_arrow
            if len(set(schema.names)) != len(schema.names):
                raise BadData(f"{file}: two columns have the same name, among {schema.names}")
            number = 0
            exact = {
                name: f for name in schema.names if (f := _exact_floats(schema.field(name).type))
            }
            heavy = any(map(_holds_bytes, schema.types))
            rows = _BATCH_OF_BYTES if heavy else _BATCH
            for batch in parquet.iter_batches(batch_size=rows):
                for values in _batch_rows(batch):
                    number += 1
                    problems.rows_seen += 1
                    place = _row_place(file, index, number)
                    if isinstance(values, str):
                        problems.note(place, values)
                        continue
                    yield place, values | {name: f(values[name]) for name, f in exact.items()}
    except pa.ArrowException as error:
        raise BadData(f"{file}: not a readable parquet file: {error}") from error


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(_holds_bytes(kind.field(i).type) for i in range(kind.num_fields))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _holds_bytes(kind.value_type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _batch_rows(batch: pa.RecordBatch) -> Iterator[Values | str]:
    """The rows of a batch; for one whose text is not UTF-8, which column that is."""
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:
        for row in range(len(batch)):
            yield _row_of_batch(batch, row)


def _row_of_batch(batch: pa.RecordBatch, row: int) -> Values | str:
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


_READERS: dict[str, Callable[[Path, int, Problems], Rows]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".tsv": _read_tsv,
    ".parquet": _read_parquet,
}
