"""Files of published data sets: pictures, parquet with pictures, the tables of VLMEvalKit."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def picture(number: int, kind: str = "PNG", size: tuple[int, int] = (96, 64)) -> bytes:
    """A picture that no other number has: bars of different heights."""
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    for bar in range(6):
        height = (number * (bar + 3) * 7 + bar * 5) % (size[1] - 2) + 1
        left = bar * size[0] // 6
        colour = ((number * 37) % 200, (number * 11 + bar * 30) % 200, bar * 40)
        draw.rectangle((left, size[1] - height, left + size[0] // 6 - 2, size[1]), fill=colour)
    sink = io.BytesIO()
    image.save(sink, kind)
    return sink.getvalue()


def embedded(number: int, kind: str = "PNG") -> dict[str, Any]:
    """As Hugging Face data sets hold a picture."""
    return {"bytes": picture(number, kind), "path": f"{number}.{kind.lower()}"}


def packed(number: int) -> str:
    """As VLMEvalKit holds a picture: base64 of a JPEG."""
    return base64.b64encode(picture(number, "JPEG")).decode()


def write_parquet(
    path: Path, rows: Sequence[dict[str, Any]], kinds: dict[str, pa.DataType] | None = None
) -> Path:
    """Rows as parquet, the image columns in the layout of Hugging Face's `Image`."""
    kinds = {
        name: (pa.list_(IMAGE) if name == "images" else IMAGE)
        for name in rows[0]
        if name.startswith(("image", "decoded_image")) and name not in ("image_id",)
    } | (kinds or {})
    columns = {name: pa.array([row.get(name) for row in rows], kinds.get(name)) for name in rows[0]}
    # As few rows in a group as a reader must be able to stream.
    pq.write_table(pa.table(columns), path, row_group_size=4)
    return path


def write_tsv(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Rows as VLMEvalKit writes them: every cell in quotes, empty ones for what is absent."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, delimiter="\t", quoting=csv.QUOTE_ALL)
        table.writerow(names)
        table.writerows([row.get(name, "") for name in names] for row in rows)
    return path
