"""Records as parquet: one frozen dataclass = one versioned Arrow schema = one kind of file."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, ClassVar, Protocol, TypeVar, Union, get_args, get_origin, get_type_hints

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import CorruptObject, StoreError

COMPRESSION_LEVEL = 3
"""zstd's."""


class Record(Protocol):
    """A frozen dataclass with a version and only `column` fields.

    In a file it goes by its class's name, or by its `LABEL` where it has one: that of a record
    whose class was renamed, as the files that there are have it.
    """

    VERSION: ClassVar[int]
    __dataclass_fields__: ClassVar[dict[str, Any]]


AnyRecord = TypeVar("AnyRecord", bound=Record)

_PLAIN = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}

_schemas: dict[type, pa.Schema] = {}


class RecordError(StoreError):
    """A table that is not the record it should be, or rows that cannot be one."""


def column(doc: str, *, unit: str = "", type: pa.DataType | None = None, beside: str = "") -> Any:
    """A field of a record: what it is and its unit; its Arrow type where Python's is not enough.

    `beside` names the list column that this list column must match in length, row by row.
    """
    return dataclasses.field(metadata={"doc": doc, "unit": unit, "arrow": type, "beside": beside})


def _arrow_field(field: dataclasses.Field[Any], hint: Any) -> pa.Field:
    nullable = get_origin(hint) in (Union, types.UnionType)
    inner = next(part for part in get_args(hint) if part is not type(None)) if nullable else hint
    kind = field.metadata["arrow"] or _PLAIN[inner]
    notes = {"doc": field.metadata["doc"]}
    if field.metadata["unit"]:
        notes["unit"] = field.metadata["unit"]
    return pa.field(field.name, kind, nullable=nullable, metadata=notes)


def label_of(cls: type[Record]) -> str:
    """What a record is called in files."""
    return getattr(cls, "LABEL", cls.__name__)


def schema(cls: type[Record]) -> pa.Schema:
    """The Arrow schema of a record, with its name and version as metadata."""
    if cls not in _schemas:
        hints = get_type_hints(cls)
        fields = [_arrow_field(field, hints[field.name]) for field in dataclasses.fields(cls)]
        label = {"mstar.record": label_of(cls), "mstar.version": str(cls.VERSION)}
        _schemas[cls] = pa.schema(fields, metadata=label)
    return _schemas[cls]


def _array(field: pa.Field, values: Sequence[Any], what: str) -> pa.Array:
    try:
        array = pa.array(values, field.type)
    except (pa.ArrowException, OverflowError, TypeError, ValueError) as error:
        raise RecordError(f"{what}.{field.name}: {error}") from error
    if array.null_count and not field.nullable:
        row = values.index(None)
        raise RecordError(f"{what}.{field.name}: row {row} has no value")
    return array


def to_table(rows: Iterable[AnyRecord], cls: type[AnyRecord]) -> pa.Table:
    """The rows as an Arrow table with the record's schema, in their order.

    Raises:
        RecordError: naming record, column and row, for a value that does not fit its column, is not
            a finite number, or a list whose length differs from its neighbour's.
    """
    listed = rows if isinstance(rows, list) else list(rows)
    wanted = schema(cls)
    arrays = [
        _array(field, [getattr(row, field.name) for row in listed], cls.__name__)
        for field in wanted
    ]
    table = pa.Table.from_arrays(arrays, schema=wanted)
    _check_values(table, cls)
    return table


def _check_values(table: pa.Table, cls: type[Record]) -> None:
    for name, column_ in zip(table.column_names, table.columns, strict=True):
        is_list = pa.types.is_list(column_.type)
        flat = pc.list_flatten(column_) if is_list else column_
        if is_list and flat.null_count:
            row = pc.list_parent_indices(column_)[pc.index(pc.is_null(flat), True).as_py()]
            raise RecordError(f"{cls.__name__}.{name}: row {row} holds null in its list")
        if pa.types.is_floating(flat.type) and not pc.all(pc.is_finite(flat), min_count=0).as_py():
            place = pc.index(pc.is_finite(flat), False).as_py()
            row = pc.list_parent_indices(column_)[place].as_py() if is_list else place
            raise RecordError(
                f"{cls.__name__}.{name}: row {row} holds {flat[place].as_py()}, not a finite number"
            )
    for field in dataclasses.fields(cls):
        other = field.metadata["beside"]
        if not other:
            continue
        same = pc.equal(pc.list_value_length(table[field.name]), pc.list_value_length(table[other]))
        if not pc.all(same, min_count=0).as_py():
            row = pc.index(same, False).as_py()
            raise RecordError(
                f"{cls.__name__}: row {row} has {len(table[field.name][row])} {field.name} "
                f"for {len(table[other][row])} {other}"
            )


def table_bytes(table: pa.Table) -> bytes:
    """The table as parquet: zstd, one row group, the same bytes for the same table."""
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        compression="zstd",
        compression_level=COMPRESSION_LEVEL,
        row_group_size=max(1, table.num_rows),
        use_dictionary=[field.name for field in table.schema if pa.types.is_string(field.type)],
    )
    data: bytes = sink.getvalue().to_pybytes()
    return data


def to_parquet(rows: Iterable[AnyRecord], cls: type[AnyRecord]) -> bytes:
    """The rows as parquet; equal rows give equal bytes. Raises as `to_table`."""
    return table_bytes(to_table(rows, cls))


def read_table(data: bytes, cls: type[Record], columns: Sequence[str] | None = None) -> pa.Table:
    """The table in `data`, or only some of its columns.

    Raises:
        CorruptObject: when it is not parquet.
        RecordError: when it is another record, version or schema; says what was found.
    """
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        _check_schema(file.schema_arrow, cls)
        table = file.read(columns=None if columns is None else list(columns))
    except (pa.ArrowException, OSError) as error:
        raise CorruptObject(
            f"{cls.__name__}: {len(data)} bytes that are not parquet: {error}"
        ) from error
    return table


def _check_schema(stored: pa.Schema, cls: type[Record]) -> None:
    label = {key.decode(): value.decode() for key, value in (stored.metadata or {}).items()}
    record, version = label.get("mstar.record"), label.get("mstar.version")
    if record != label_of(cls):
        raise RecordError(f"this is {record or 'no record of ours'}, not {label_of(cls)}")
    if version != str(cls.VERSION):
        raise RecordError(
            f"this is {record} of version {version}, and this code reads version {cls.VERSION}: "
            "use the code that wrote it, or let the stage run again"
        )
    wanted = schema(cls)
    if stored.equals(wanted, check_metadata=False):
        return
    lacks = [
        f"{field.name} {field.type}"
        for field in wanted
        if field.name not in stored.names
        or not stored.field(field.name).equals(field, check_metadata=False)
    ]
    extra = [name for name in stored.names if name not in wanted.names]
    raise RecordError(
        f"this {record} is not as version {version} is: it lacks {', '.join(lacks) or 'nothing'}, "
        f"has in addition {', '.join(extra) or 'nothing'}, or has another order"
    )


def _tuples(column_: pa.ChunkedArray) -> Iterable[tuple[Any, ...]]:
    """A list column as tuples: one conversion of the flat items, then slices of it."""
    for chunk in filter(len, column_.chunks):
        flat = chunk.flatten().to_numpy(zero_copy_only=False).tolist()
        ends = (chunk.offsets.to_numpy() - chunk.offsets[0].as_py()).tolist()
        yield from (tuple(flat[start:end]) for start, end in pairwise(ends))


def from_table(table: pa.Table, cls: type[AnyRecord]) -> list[AnyRecord]:
    """The rows of a table that `read_table` gave with all its columns."""
    columns = [
        _tuples(values) if pa.types.is_list(values.type) else values.to_pylist()
        for values in (table[name] for name in schema(cls).names)
    ]
    return list(map(cls, *columns))


def from_parquet(data: bytes, cls: type[AnyRecord]) -> list[AnyRecord]:
    """The rows in `data`. Raises as `read_table`."""
    return from_table(read_table(data, cls), cls)


def describe(cls: type[Record]) -> str:
    """The record as a Markdown table: column, type, unit, meaning."""
    label = label_of(cls)
    stored = "" if label == cls.__name__ else f" (in files: `{label}`)"
    lines = [f"**{cls.__name__}**{stored}, version {cls.VERSION}. {cls.__doc__}", ""]
    lines += ["| column | type | unit | meaning |", "|---|---|---|---|"]
    for field in schema(cls):
        notes = {key.decode(): value.decode() for key, value in field.metadata.items()}
        kind = f"list of {field.type.value_type}" if pa.types.is_list(field.type) else field.type
        lines.append(
            f"| `{field.name}` | {kind}{', or null' if field.nullable else ''} "
            f"| {notes.get('unit', '')} | {notes['doc']} |"
        )
    return "\n".join(lines)
