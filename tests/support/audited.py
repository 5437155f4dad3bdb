"""A finished run as objects by path, and ledgers that are whole and tell something else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from pipeline.run.ledger import Ledger, seal
from pipeline.storage.backend import MemoryBackend
from pipeline.storage.store import Store
from tests.support.chaos_world import RUN, Lives

IMAGE = b"the bytes of an image"
Objects = dict[str, bytes]


def make_run(folder: Path, **changes: Any) -> Objects:
    """A finished run with one image, killed once on its way."""
    lives = Lives(folder, **changes)
    for path in lives.store.list("images"):
        lives.store.delete(path)
    sha = sha256(IMAGE).hexdigest()
    splits = {
        name: tuple(replace(query, images=(sha,)) for query in part)
        for name, part in lives.program.splits.items()
    }
    lives.program = replace(lives.program, splits=splits)
    lives.store.put(f"images/{sha}", IMAGE)
    lives.live(lives.crash_at(500))
    assert lives.live() is not None
    return dict(lives.memory.good)


def store_of(objects: Objects) -> Store:
    store = Store(MemoryBackend(), say=lambda line: None)
    for path, data in objects.items():
        store.replace(path, data)
    return store


def rewritten(objects: Objects, change: Callable[[dict[str, Any]], Any]) -> Store:
    """The run with a ledger that is whole, sealed and chained, and tells something else: events as
    `change` leaves them, and not at all where it answers False."""
    store = store_of(objects)
    entries = list(Ledger(store, RUN).entries())
    previous = "0" * 64
    for entry in entries:
        events = [event for event in map(dict, entry.events) if change(event) is not False]
        content = {"events": events, "format": 1, "n": entry.n, "nonce": entry.nonce}
        data = seal({**content, "previous": previous, "run": RUN})
        store.replace(Ledger(store, RUN).path(entry.n), data)
        previous = sha256(data).hexdigest()
    for path in store.list(f"runs/{RUN}/snapshots"):
        store.delete(path)
    return store
