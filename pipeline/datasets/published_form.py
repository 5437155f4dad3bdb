"""What a published format is: its name, what tells it, and how a row of it becomes a row of ours.

A row of ours has the columns of docs/data.md and passes the same checks as one that a person wrote.
What cannot be put into that form is `Unusable`, with the reason; nothing is guessed.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from ast import literal_eval
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.datasets.cells import is_absent
from pipeline.errors import BadData
from pipeline.hashing import sha256_hex

Values = Mapping[str, Any]


# VLMEvalKit's rule for what is an index and what a picture.
_LONGEST_INDEX = 64


class Unusable(Exception):
    """A row that cannot be used; the message says why."""


@dataclass
class ImageFiles:
    """Where the pictures of one data file are: files beside it, or bytes inside it.

    file: the data file. embedded: the folder that embedded pictures are written to, each once,
        under the sha256 of its bytes; None: none are taken.
    by_index: the picture of a row of VLMEvalKit, which others name by that row's index.
    beside: the files of pictures beside the data, by the names that rows have for them.
    """

    file: Path
    embedded: Path | None = None
    by_index: dict[str, str] = field(default_factory=dict)
    beside: dict[str, str] = field(default_factory=dict)

    def of(self, cell: Any) -> str:
        """The path of a picture: bytes, a struct of bytes and path, or a path.

        Raises:
            Unusable: there is none. BadData: the pictures are still packed in an archive.
        """
        if isinstance(cell, Mapping):
            data, path = cell.get("bytes"), cell.get("path")
            if isinstance(data, str):
                return self.base64(data)
            return self.of(path if is_absent(data) else data)
        if isinstance(cell, bytes):
            return self._write(cell)
        if isinstance(cell, str) and cell:
            return self._packed(cell) if self.file.suffix == ".tsv" else self._beside(cell)
        raise Unusable("no image, where the format has one")

    def all_of(self, cell: Any) -> list[str]:
        """The paths of a cell with a list of pictures, one, or none."""
        if is_absent(cell) or cell == "":
            return []
        if isinstance(cell, str) and cell.startswith("["):
            cell = texts_of(cell, "images")
        return [self.of(item) for item in (cell if isinstance(cell, list) else [cell])]

    def paths_of(self, cell: Any) -> list[str]:
        """The pictures of a cell with one path or a list of paths, of whatever kind the file is."""
        if is_absent(cell) or cell == "":
            return []
        names = texts_of(cell, "image paths") if str(cell).startswith("[") else [str(cell)]
        return [self._beside(name) for name in names]

    def index(self, values: Values) -> None:
        """Keep the picture of a row of a .tsv, whichever others name it by the row's index."""
        cell = values.get("image")
        if isinstance(cell, str) and len(cell) > _LONGEST_INDEX and "index" in values:
            with suppress(Unusable):  # named when the row itself is read
                self.by_index[values["index"]] = self.of(cell)

    def _packed(self, text: str) -> str:
        """A picture of a .tsv: in base64, or by the index of the row that has it."""
        if len(text) > _LONGEST_INDEX:
            return self.base64(text)
        if text not in self.by_index:
            raise Unusable(f"its image is that of the row with index {text!r}, and there is no "
                           "such row with an image of its own")  # fmt: skip
        return self.by_index[text]

    def base64(self, text: str) -> str:
        """The path of a picture in base64.

        Raises:
            Unusable: it is none.
        """
        packed = re.sub(r"^data:image/[\w.+-]+;base64,|\s+", "", text)
        try:
            data = base64.b64decode(packed, validate=True)
        except (binascii.Error, ValueError) as error:
            raise Unusable(f"its image is broken base64 ({error})") from error
        if not data:
            raise Unusable("its image is empty")
        return self._write(data)

    def _write(self, data: bytes) -> str:
        if self.embedded is None:
            raise BadData(f"{self.file}: holds its pictures; give a folder to write them to")
        path = self.embedded / f"{sha256_hex(data)}.{_suffix(data)}"
        if not path.is_file() or path.stat().st_size != len(data):
            self.embedded.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f".{path.name}.{os.getpid()}")
            partial.write_bytes(data)
            partial.replace(path)
        return str(path.absolute())

    def _beside(self, name: str) -> str:
        """A picture beside the data file or in one of the folders that published data have."""
        if name in self.beside:
            return self.beside[name]
        folder = self.file.parent
        for below in ("", "data_images", "images", ".."):
            path = folder / below / name
            if path.is_file():
                self.beside[name] = str(path.absolute())
                return self.beside[name]
        if self.beside:
            return name  # the others are there, so they are not packed in an archive
        archives = [*sorted(folder.glob("*.zip*")), *sorted(folder.parent.glob("*images*.zip*"))]
        top = name.split("/", maxsplit=1)[0]
        unpacked = any((folder / one).is_dir() for one in ("data_images", top) if one != name)
        if archives and not unpacked:
            raise BadData(
                f"{self.file}: the image {name} is not there, and {archives[0]} is: the pictures "
                f"have to be unpacked (unzip {archives[0].name}, in {archives[0].parent}; of a zip "
                "in parts, join the parts first)"
            )
        return name


# How files of the known formats begin; a file that begins otherwise is refused when it is checked.
_SUFFIXES = {
    b"\x89PNG": "png", b"\xff\xd8\xff": "jpg", b"GIF8": "gif", b"BM": "bmp", b"RIFF": "webp",
    b"II*\0": "tiff", b"MM\0*": "tiff",
}  # fmt: skip


def _suffix(data: bytes) -> str:
    return next((name for start, name in _SUFFIXES.items() if data.startswith(start)), "bin")


@dataclass(frozen=True)
class Form:
    """One published format.

    name: as `data.format` has it. says: what it is told by, for messages.
    fits: whether a row of these values is of this format.
    row: our columns of a row of it; raises `Unusable`.
    note: what a person should know of these data, or None.
    """

    name: str
    says: str
    fits: Callable[[Values], bool]
    row: Callable[[Values, ImageFiles], dict[str, Any]]
    note: str | None = None


def has(values: Values, *columns: str) -> bool:
    """Whether all these columns are there."""
    return all(name in values for name in columns)


def text_of(values: Values, *columns: str) -> str:
    """The first of these columns that is there and not empty, as text; "" when none is."""
    for name in columns:
        value = values.get(name)
        if not is_absent(value) and str(value).strip():
            return str(value).strip()
    return ""


def texts_of(cell: Any, what: str) -> list[str]:
    """A list of texts: as such, or spelled as a Python list, as MMMU and MathVista's TSV do.

    Raises:
        Unusable: it is something else.
    """
    if isinstance(cell, str):
        try:
            cell = literal_eval(cell)
        except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
            raise Unusable(f"its {what} are no list: {str(cell)[:80]!r}") from error
    if is_absent(cell):
        return []
    if not isinstance(cell, Sequence):
        raise Unusable(f"its {what} are no list: {str(cell)[:80]!r}")
    return [str(item).strip() for item in cell if not is_absent(item)]
