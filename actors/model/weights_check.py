"""Whether a model folder's safetensors files are complete, told by their headers and sizes.

A download or a copy that broke off leaves a file that only fails when an engine reads it, minutes
later and without its name. Nothing but headers is read here.

    8 bytes: N, little-endian | N bytes of JSON: {tensor: {"data_offsets": [begin, end], …}} | data
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.errors import LFS_HINT, LFS_POINTER, BadModel

INDEX_SUFFIX = ".safetensors.index.json"

_LENGTH_BYTES = 8

_MOST_HEADER_BYTES = 100_000_000  # safetensors' own limit

_AGAIN = "copy or download it again"


def check_weights(folder: Path) -> None:
    """Refuse a folder whose weights are not all there.

    Raises:
        BadModel: naming the file that is missing, truncated, damaged or only a Git LFS pointer.
    """
    names_by_file = {file: tensor_names(file) for file in sorted(folder.glob("*.safetensors"))}
    for index in sorted(folder.glob(f"*{INDEX_SUFFIX}")):
        for tensor, name in _weight_map(index).items():
            file = folder / name
            if file not in names_by_file:
                raise BadModel(f"{file} is missing, and {index.name} says that it holds {tensor}")
            if tensor not in names_by_file[file]:
                raise BadModel(
                    f"{file} does not hold {tensor}, which {index.name} says that it does: they "
                    "are of different models"
                )


def tensor_names(file: Path) -> set[str]:
    """The names of the tensors in a safetensors file that is as long as its header says.

    Raises:
        BadModel: it is not.
    """
    size = file.stat().st_size
    with file.open("rb") as opened:
        start = opened.read(len(LFS_POINTER))
        if start == LFS_POINTER:
            raise BadModel(f"{file} {LFS_HINT}")
        if size < _LENGTH_BYTES:
            raise BadModel(f"{file} is truncated: it has {size} bytes; {_AGAIN}")
        length = int.from_bytes(start[:_LENGTH_BYTES], "little")
        if length > _MOST_HEADER_BYTES:
            raise BadModel(f"{file} is damaged: it does not begin as a safetensors file; {_AGAIN}")
        opened.seek(_LENGTH_BYTES)
        header = opened.read(length)
    if len(header) < length:
        raise BadModel(f"{file} is truncated inside its header: it has {size} bytes; {_AGAIN}")
    tensors = _header(file, header)
    needed = _LENGTH_BYTES + length + max((end for end in tensors.values()), default=0)
    if size < needed:
        raise BadModel(f"{file} is truncated: it has {size} of {needed} bytes; {_AGAIN}")
    if size > needed:
        raise BadModel(f"{file} is damaged: {size - needed} bytes follow its last tensor; {_AGAIN}")
    return set(tensors)


def _header(file: Path, header: bytes) -> dict[str, int]:
    """Where the data of each tensor end, in bytes after the header."""
    try:
        parsed: dict[str, Any] = json.loads(header)
        return {
            name: int(facts["data_offsets"][1])
            for name, facts in parsed.items()
            if name != "__metadata__"
        }
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise BadModel(f"{file} is damaged: its header cannot be read; {_AGAIN}") from error


def _weight_map(index: Path) -> dict[str, str]:
    try:
        found = json.loads(index.read_bytes())["weight_map"]
        return {str(tensor): str(name) for tensor, name in found.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadModel(f"{index} cannot be read as an index of weights; {_AGAIN}") from error
