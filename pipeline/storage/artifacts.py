"""Content-addressed objects of a stage: their paths, written once, read verified."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from pipeline.errors import ArtifactLost, CorruptObject, StoreMissing, StoreRefused
from pipeline.hashing import sha256_hex
from pipeline.storage.backend import check_path
from pipeline.storage.store import Store

SCORES = "score"

ROLLOUTS, GRADES, CLASSES, SELECTED = "rollout", "grade", "classes", "select"

_CONTENT_PATH = re.compile(r"(?:.*/)?([0-9a-f]{64})(?:\.[A-Za-z0-9.]+)?")


@contextmanager
def needed(path: str) -> Iterator[None]:
    """Around what reads an object: where the store says that it is corrupt or gone, it is lost.

    Raises:
        ArtifactLost: naming `path`.
    """
    try:
        yield
    except (CorruptObject, StoreMissing) as error:
        raise ArtifactLost(path, str(error)) from error


def read_rows(store: Store, path: str, kind: type[Any]) -> list[Any]:
    """The rows of a content-addressed object, its hash and schema checked.

    Raises:
        ArtifactLost: it is corrupt (and now quarantined) or gone.
    """
    with needed(path):
        return _rows(get_verified(store, path), kind)


def inspect_rows(store: Store, path: str, kind: type[Any]) -> list[Any]:
    """`read_rows` for audits and reports, which change nothing: what is corrupt stays where it is.

    Raises:
        StoreMissing, CorruptObject: it is gone, or corrupt. RecordError: it is another record.
    """
    return _rows(get_verified(store, path, quarantine=False), kind)


def _rows(data: bytes, kind: type[Any]) -> list[Any]:
    # Here, because a learner's ranks read no parquet and need no pyarrow.
    from pipeline.storage.parquet import from_parquet

    return list(from_parquet(data, kind))


def content_path(stage: str, key: str, data: bytes, suffix: str) -> str:
    """Where `put_content` stores `data`."""
    return check_path(f"shards/{stage}/{key}/{sha256_hex(data)}.{suffix.lstrip('.')}")


def put_content(store: Store, stage: str, key: str, data: bytes, suffix: str) -> str:
    """Store `data` under its own hash and return the path `shards/stage/key/<sha256>.suffix`."""
    path = content_path(stage, key, data, suffix)
    store.put(path, data)
    return path


def hash_in(path: str) -> str:
    """The sha256 that a content-addressed path ends in."""
    match = _CONTENT_PATH.fullmatch(path)
    if match is None:
        raise StoreRefused(f"{path!r} does not end in the sha256 of its content")
    return match.group(1)


def get_verified(store: Store, path: str, *, quarantine: bool = True) -> bytes:
    """The bytes of a content-addressed object, which hash to what its path says.

    Raises:
        StoreMissing: when there is no object.
        CorruptObject: when its bytes are others; they are moved to `quarantine/` first, unless
            `quarantine` is False (a reader that must not change the store).
    """
    wanted = hash_in(path)
    data = store.get(path)
    sha256 = sha256_hex(data)
    if sha256 == wanted:
        return data
    if quarantine:
        with suppress(StoreMissing):  # another reader was faster
            if store.quarantine(path, unless=wanted) is None:
                return get_verified(store, path, quarantine=False)
    raise CorruptObject(
        f"{store.url}: {path} holds {len(data)} bytes with sha256 {sha256[:16]}…, not its own"
    )
