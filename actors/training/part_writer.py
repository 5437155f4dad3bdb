"""A safetensors file written tensor by tensor: hashed as it is written, one tensor in memory.

The format (https://github.com/huggingface/safetensors, format.md): eight bytes with the length of a
JSON header, the header with the type, shape and place of each tensor, then their bytes, without
gaps. The library's own writer wants all tensors at once, which of a rank's part of a checkpoint are
gigabytes, and leaves the hashing for a second reading.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from pipeline.storage.trees import TreeFile

NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.float64: "F64"}
ALIGNMENT = 8


class PartWriter:
    """Writes the tensors that it was told of, in that order.

    shapes: type and shape by name; larger types first, so that every tensor is aligned.
    """

    def __init__(self, path: Path, shapes: Mapping[str, tuple[torch.dtype, Sequence[int]]]) -> None:
        self._path = path
        self._file = path.open("wb")
        self._digest = hashlib.sha256()
        self._left = list(shapes)
        self._write(_header(shapes))

    def add(self, name: str, tensor: Tensor) -> None:
        """The next tensor."""
        wanted = self._left.pop(0)
        if name != wanted:
            raise ValueError(f"{name} is written where {wanted} comes next")
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        self._write(flat.view(torch.uint8).numpy().data)

    def close(self) -> TreeFile:
        """What was written."""
        if self._left:
            raise ValueError(f"{', '.join(self._left[:3])} was not written")
        size = self._file.tell()
        self._file.close()
        return TreeFile(self._path.name, self._digest.hexdigest(), size)

    def _write(self, data: bytes | memoryview) -> None:
        self._digest.update(data)
        self._file.write(data)

    def __enter__(self) -> PartWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()


def _header(shapes: Mapping[str, tuple[torch.dtype, Sequence[int]]]) -> bytes:
    found: dict[str, object] = {"__metadata__": {"format": "pt"}}
    place = 0
    for name, (kind, shape) in shapes.items():
        end = place + math.prod(shape) * kind.itemsize
        found[name] = {"dtype": NAMES[kind], "shape": list(shape), "data_offsets": [place, end]}
        place = end
    header = json.dumps(found, separators=(",", ":")).encode()
    header += b" " * (-len(header) % ALIGNMENT)
    return len(header).to_bytes(8, "little") + header
