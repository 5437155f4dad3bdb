"""Small data sets on disk, for tests: pictures, rows, and the error that reading them gives."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.datasets.dataset import load_dataset
from pipeline.errors import BadData
from pipeline.hashing import sha256_hex


def png(shade: int) -> bytes:
    sink = io.BytesIO()
    Image.new("L", (4, 4), shade).save(sink, "PNG")
    return sink.getvalue()


PNGS = {sha256_hex(png(shade)): png(shade) for shade in range(12)}
SHAS = list(PNGS)
GOOD: dict[str, Any] = {"question": "How many?", "answer": "3"}


def write_jsonl(path: Path, rows: Sequence[Mapping[str, Any] | str]) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def refusal(path: Path, *reading: Any, **options: Any) -> str:
    with pytest.raises(BadData) as caught:
        load_dataset(path, *reading, **options)
    return str(caught.value)


def numbered(count: int, **fields: Any) -> list[dict[str, Any]]:
    return [{"question": f"What is {i}?", "answer": str(i), **fields} for i in range(count)]
