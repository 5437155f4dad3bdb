"""Remove from a store what no run in it needs: `mstar-ray gc out/digits`.

Without more it only lists. `--delete` removes: objects that no ledger of the store names (what a
killed `mstar-ray validate` left is among them) and that are older than `--min-age-h` (24) by the
store's own clock. Kept are all ledgers, snapshots and leases, everything they name, and what is in
quarantine. Links in a store are never followed; control characters of a name are printed escaped.

It refuses while a driver lives, and holds the lease of every run while it deletes, so that none
starts meanwhile. A ledger that is damaged makes it refuse as well: nobody knows what it named.

Exit codes: 0 done; 2 refused, and why.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack

from jobs.runtime.cli import command, say
from jobs.runtime.stores import find_store
from pipeline.audit.garbage import garbage, needed, runs_of, store_now
from pipeline.errors import BadConfig
from pipeline.run.lease import Lease
from pipeline.storage.backend import Entry, printable
from pipeline.storage.store import Store

HOUR_S = 3600.0


def gc(place: str, min_age_h: float, *, delete: bool) -> None:
    """List, or remove, what no run of a store needs."""
    show(collect(find_store(place), min_age_h * HOUR_S, delete=delete), deleted=delete)


def collect(
    store: Store, min_age_s: float, *, delete: bool, lease_of: Callable[..., Lease] = Lease
) -> list[Entry]:
    """What is garbage; gone from the store when this returns, with `delete`.

    Raises:
        LeaseHeld: with `delete`, a driver is at work on one of the store's runs.
        BadConfig: the store holds no run, so it is more likely the wrong place.
        BadData: a run's ledger is damaged.
    """
    runs = runs_of(store)
    if not runs:
        raise BadConfig(f"{store.url} holds no run: is it the right place? Nothing is removed.")
    with ExitStack() as held:
        if delete:
            for run in runs:
                lease = lease_of(store, run, say=say)
                lease.acquire()
                held.enter_context(lease.kept())
        # listed first: what is written from here on is not looked at
        entries = store.entries()
        now = store_now(store)
        found = list(garbage(entries, needed(store, runs), now_unix_s=now, min_age_s=min_age_s))
        if delete:
            for entry in found:
                store.delete_listed(entry)
    return found


def show(found: list[Entry], *, deleted: bool) -> None:
    """One line for each object, and a sum for each kind."""
    for entry in found:
        print(f"{entry.size_bytes:>12}  {printable(entry.path)}")
    sizes: Counter[str] = Counter()
    for entry in found:
        sizes[entry.path.partition("/")[0]] += entry.size_bytes
    for kind, size in sorted(sizes.items()):
        print(f"{printable(kind)}: {size / 1e6:.1f} MB")
    what = "removed" if deleted else "not needed by any run (--delete removes them)"
    print(f"{len(found)} objects {what}")


if __name__ == "__main__":
    command("gc")
