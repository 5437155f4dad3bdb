"""A store in memory that remembers what every object was, and what damage leaves of one."""

from __future__ import annotations

from typing import Literal

from pipeline.storage.backend import MemoryBackend

Damage = Literal["flip", "cut", "empty", "remove"]


class Remembering(MemoryBackend):
    """Knows what every object was when it was written."""

    def __init__(self) -> None:
        super().__init__()
        self.good: dict[str, bytes] = {}

    def write(self, path: str, data: bytes) -> None:
        super().write(path, data)
        self._remember(path, data)

    def create(self, path: str, data: bytes) -> bool:
        won = super().create(path, data)
        if won:
            self._remember(path, data)
        return won

    def _remember(self, path: str, data: bytes) -> None:
        self.good.pop(path, None)
        self.good[path] = data

    def delete(self, path: str) -> None:
        super().delete(path)
        self.good.pop(path, None)

    def lay(self, path: str, data: bytes | None) -> None:
        """What nobody wrote: damage, and its repair."""
        if data is None:
            self._objects.pop(path, None)
        else:
            self._objects[path] = (data, 0.0)

    def bytes_at(self, path: str) -> bytes | None:
        return self._objects[path][0] if path in self._objects else None


def damaged(data: bytes, how: Damage, pick: int) -> bytes | None:
    """What is left of an object."""
    match how:
        case "flip":
            at = pick % len(data)
            return data[:at] + bytes([data[at] ^ 0x20]) + data[at + 1 :]
        case "cut":
            return data[: pick % len(data)]
        case "empty":
            return b""
        case "remove":
            return None
