"""Published data formats that are not read yet: refused by their name, with the way out.

A format is told by its columns, its column types or its file, before anything of a row is checked:
one message, not one for every row. What to do instead is in docs/data.md, "Published formats".
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pyarrow as pa

_WAY_OUT = "docs/data.md, 'Published formats', has the few lines that convert it"
_LLAVA = (
    "LLaVA's format (a column conversations), which is not read yet; write the human turn as "
    "question, without <image>, the gpt turn as answer and image as a list images"
)
_CHAT = (
    "chat messages (a column messages), which are not read; write the user's turn as question and "
    "the answer alone as answer"
)
_VERL = (
    "verl's format (columns prompt, reward_model, …), which is not read yet; write the user's turn "
    "of prompt as question, without <image>, and reward_model.ground_truth as answer"
)
_MMMU = (
    "MMMU's format (columns image_1, …), which is not read yet; save the pictures as files, name "
    "them in a list images, and write options as a list choices"
)
_VLMEVALKIT = (
    "VLMEvalKit's format (a column for each of A, B, C, …), which is not read yet; save image as a "
    "file, named in a list images, and write the options as a list choices"
)
_EMBEDDED = (
    "holds embedded images, as Hugging Face data sets do (a struct of bytes and path), which are "
    "not read yet; save them as files and name those in a list images"
)
_IMAGE_COLUMN = re.compile(r"image|img|picture|photo", re.IGNORECASE)
_MMMU_COLUMN = re.compile(r"image_\d+")


def row_problem(values: dict[str, Any]) -> str | None:
    """The published format that this row is in, and the way out; None when it is in none."""
    named = _by_columns(values.keys())
    if named is None and any(map(_holds_image, values.values())):
        named = f"the column {_column_of_images(values)!r} {_EMBEDDED}"
    return None if named is None else f"{named}. {_WAY_OUT}"


def schema_problem(schema: pa.Schema) -> str | None:
    """The published format of a parquet file, told before its images are read; else None."""
    named = _by_columns(schema.names)
    if named is None:
        embedded = [field.name for field in schema if _is_image_type(field.name, field.type)]
        named = f"the column {embedded[0]!r} {_EMBEDDED}" if embedded else None
    return None if named is None else f"{named}. {_WAY_OUT}"


def file_problem(file: Path) -> str:
    """Why a file that is neither JSONL nor parquet is not read, and what it is."""
    wanted = "a data file is .jsonl (an object a line) or .parquet"
    if file.suffix == ".tsv":
        return (
            f"{wanted}; this is a table of tab-separated values, as VLMEvalKit has them, which is "
            f"not read yet. {_WAY_OUT}"
        )
    if file.suffix == ".json":
        return (
            f"{wanted}; .json, as LLaVA's data come, is one value for the complete file. {_WAY_OUT}"
        )
    if file.suffix == ".csv":
        return f"{wanted}; pandas.read_csv and to_json(orient='records', lines=True) convert a .csv"
    return wanted


def _by_columns(columns: Collection[str]) -> str | None:
    if "conversations" in columns:
        return _LLAVA
    if "reward_model" in columns or ("prompt" in columns and "data_source" in columns):
        return _VERL
    if "messages" in columns:
        return _CHAT
    if any(map(_MMMU_COLUMN.fullmatch, columns)):
        return _MMMU
    if "A" in columns and "B" in columns:
        return _VLMEVALKIT
    return None


def _holds_image(value: Any) -> bool:
    if isinstance(value, list):
        return any(map(_holds_image, value))
    return isinstance(value, dict) and "bytes" in value


def _column_of_images(values: dict[str, Any]) -> str:
    return next(name for name, value in values.items() if _holds_image(value))


def _is_image_type(name: str, kind: pa.DataType) -> bool:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _is_image_type(name, kind.value_type)
    if pa.types.is_struct(kind):
        return any(kind.field(index).name == "bytes" for index in range(kind.num_fields))
    named = _IMAGE_COLUMN.search(name) is not None
    return named and (pa.types.is_binary(kind) or pa.types.is_large_binary(kind))
