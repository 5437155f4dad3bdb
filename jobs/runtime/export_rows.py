"""Selected responses and step labels, written as data sets: a file, or a folder with images.

What is written appears complete or not at all. Some hundred rows are in memory at a time.
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import BadConfig
from pipeline.reports.sft import (
    PARQUET,
    VERL,
    Form,
    Row,
    image_name,
    llava_row,
    parquet_row,
    verl_row,
)
from pipeline.storage.artifacts import get_verified
from pipeline.storage.store import Store

GROUP = 256
"""Rows of a parquet row group."""

REMEMBERED = 256
"""Images kept in memory: questions about one of them stand close together."""

Open = Callable[[str], bytes]
"""From an image's path in the store to its bytes."""


def write_rows(store: Store, rows: Iterable[Row], form: Form, to: Path, name: str) -> int:
    """Write rows of `pipeline.reports.selected` in a form; how many there were.

    to: a file, for llava a folder. name: of the data source.

    Raises:
        BadConfig: `to` is there already. CorruptObject, StoreMissing: an image is damaged or gone.
    """
    opened = lru_cache(maxsize=REMEMBERED)(lambda path: get_verified(store, path, quarantine=False))
    with _fresh(to) as fresh:
        match form:
            case "jsonl":
                return write_lines(rows, fresh)
            case "llava":
                return _write_llava(rows, opened, fresh)
            case "parquet":
                made = (parquet_row(row, [opened(path) for path in row["images"]]) for row in rows)
                return _write_parquet(made, PARQUET, fresh)
            case "verl":
                made = (verl_row(row, [opened(p) for p in row["images"]], name) for row in rows)
                return _write_parquet(made, VERL, fresh)


def write_labels(store: Store, rows: Iterable[dict[str, Any]], to: Path) -> int:
    """Write rows of step labels into a folder: `labels.jsonl`, and its images; how many."""
    with _fresh(to) as fresh:
        images = _Images(lambda path: get_verified(store, path, quarantine=False), fresh)
        named = ({**row, "image": images.names(row["image"])} for row in rows)
        return write_lines(map(_alone, named), fresh / "labels.jsonl")


def write_lines(rows: Iterable[Row], to: Path) -> int:
    """One JSON object a line; how many."""
    with to.open("w", encoding="utf-8") as file:
        return sum(bool(file.write(json.dumps(row, ensure_ascii=False) + "\n")) for row in rows)


@contextmanager
def _fresh(to: Path) -> Iterator[Path]:
    """A place beside `to` that becomes it at the end."""
    if to.exists():
        raise BadConfig(f"{to} is there already: name one that is not (--to)")
    to.parent.mkdir(parents=True, exist_ok=True)
    fresh = to.with_name(f".{to.name}.{secrets.token_hex(4)}")
    try:
        yield fresh
        fresh.rename(to)
    finally:
        if fresh.is_dir():
            shutil.rmtree(fresh)
        fresh.unlink(missing_ok=True)


class _Images:
    """Images of the store in the folder `images/`, each once, by name."""

    def __init__(self, opened: Open, folder: Path) -> None:
        self._open = opened
        self._folder = folder / "images"
        self._folder.mkdir(parents=True)
        self._names: dict[str, str] = {}

    def names(self, paths: Iterable[str]) -> list[str]:
        """Their names from the folder above."""
        for path in paths:
            if path not in self._names:
                data = self._open(path)
                self._names[path] = f"images/{image_name(path, data)}"
                (self._folder / image_name(path, data)).write_bytes(data)
        return [self._names[path] for path in paths]


def _alone(row: dict[str, Any]) -> dict[str, Any]:
    """VisualPRM's form: the image of a row that has one, else the list."""
    (*images,) = row["image"]
    return {**row, "image": images[0] if len(images) == 1 else images}


def _write_llava(rows: Iterable[Row], opened: Open, folder: Path) -> int:
    images, count = _Images(opened, folder), 0
    with (folder / "data.json").open("w", encoding="utf-8") as file:
        for count, row in enumerate(rows, start=1):
            made = llava_row(row, images.names(row["images"]))
            file.write(("[\n" if count == 1 else ",\n") + json.dumps(made, ensure_ascii=False))
        file.write("\n]\n" if count else "[]\n")
    return count


def _write_parquet(rows: Iterator[dict[str, Any]], schema: pa.Schema, to: Path) -> int:
    count = 0
    with pq.ParquetWriter(to, schema) as writer:
        while group := list(islice(rows, GROUP)):
            writer.write_table(pa.Table.from_pylist(group, schema))
            count += len(group)
    return count
