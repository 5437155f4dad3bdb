"""What the paths in events mean: which of an event's values name an object of the store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

TREES = ("policies/", "checkpoints/")
"""Folders: `<kind>/<key>/<sha256 of the manifest>`."""


def shard_stage(path: str) -> str | None:
    """The stage of a shard's path (`shards/<stage>/<key>/<sha256>.parquet`), None for others."""
    parts = path.split("/")
    is_shard = len(parts) == 4 and parts[0] == "shards" and path.endswith(".parquet")
    return parts[1] if is_shard else None


def named(value: Any) -> Iterator[str]:
    """The paths of shards, policies and checkpoints in an event, wherever they stand in it."""
    if isinstance(value, str):
        if shard_stage(value) or value.startswith(TREES):
            yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from named(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from named(item)
