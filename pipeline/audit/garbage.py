"""What a store holds and no run needs: found from the ledgers, never guessed.

What always holds: an object that any ledger of the store names, and no later event of that run gave
up, is kept; so is everything of other kinds (ledgers, what is in quarantine) and what is younger
than a limit by the store's own clock (a worker may be about to name it). A ledger that cannot be
read to its end makes everything kept: nobody knows what it names.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from pipeline.errors import BadData, LedgerNewer, StoreError
from pipeline.run.events.lifecycle import RunCreated
from pipeline.run.events.wire import from_wire
from pipeline.run.ledger import Ledger, is_run_name
from pipeline.run.queries import spec_of
from pipeline.run.references import TREES, named
from pipeline.storage.backend import Entry
from pipeline.storage.store import Store
from pipeline.storage.trees import manifest_path
from pipeline.training.finished import kept_with

SCRATCH = "validate-"
"""How the folder of a validation in a store begins; one that was killed leaves it behind."""

KINDS = ("shards/", "policies/", "checkpoints/", "jobs/", "needed/", "images/", "probe/", SCRATCH)
"""What ledgers name, and what jobs that write none leave; everything else in a store is somebody
else's, or for a person to look at."""


@dataclass
class Named:
    """What runs need: objects by path, and folders by prefix."""

    objects: set[str] = field(default_factory=set)
    trees: set[str] = field(default_factory=set)

    def __contains__(self, path: str) -> bool:
        # policies/<key>/<sha256>/…: a tree's own prefix has three parts
        return path in self.objects or "/".join(path.split("/")[:3]) in self.trees


def runs_of(store: Store) -> list[str]:
    """The names of every run in the store. What is called as no run can be is nobody's."""
    paths = (path.split("/") for path in store.list("runs"))
    return sorted({parts[1] for parts in paths if len(parts) > 2 and is_run_name(parts[1])})


def needed(store: Store, runs: Iterable[str]) -> Named:
    """What these runs name.

    Raises:
        BadData: a ledger is damaged; it says which, and that an audit says more.
    """
    keep = Named()
    for run in runs:
        try:
            paths = _named_by(store, run)
        except (StoreError, LedgerNewer, ValueError, KeyError) as error:
            raise BadData(
                f"run {run}: what it needs cannot be told ({error}); nothing is removed. "
                f"`mstar-ray audit {store.url} --run {run}` says what is damaged."
            ) from error
        for path in paths:
            if path.startswith(TREES):
                keep.trees.add(path)
                keep.objects.add(manifest_path(path))
            else:
                keep.objects.add(path)
    keep.objects.update(kept_with(store, keep.trees))
    return keep


def _named_by(store: Store, run: str) -> set[str]:
    paths: set[str] = set()
    for wire in Ledger(store, run).replay():
        event = from_wire(wire)
        paths = (paths | set(named(wire))) - event.drops()
        if isinstance(event, RunCreated):
            run_spec = spec_of(store, event)
            paths |= {
                f"images/{sha}" for query in run_spec.by_hash.values() for sha in query.images
            }
    return paths


def store_now(store: Store) -> float:
    """Seconds since the epoch by the store's own clock: of an object written now."""
    path = f"probe/{secrets.token_hex(8)}"
    store.replace(path, b"what time is it?")
    entry = store.stat(path)
    store.delete(path)
    if entry is None:
        raise BadData(f"{store.url}: what was just written is not there")
    return entry.modified_unix_s


def garbage(
    entries: Iterable[Entry], keep: Named, *, now_unix_s: float, min_age_s: float
) -> Iterator[Entry]:
    """What may go, manifests first: what a crash in between leaves is no tree."""
    old = [
        entry
        for entry in entries
        if entry.path.startswith(KINDS)
        and entry.path not in keep
        and now_unix_s - entry.modified_unix_s >= min_age_s
    ]
    yield from sorted(
        old, key=lambda entry: (not entry.path.endswith(".manifest.json"), entry.path)
    )
