"""The ledger: the one truth about a run, `runs/<run>/ledger/<n>.json`, written by its driver alone.

What always holds:

* entries are created, never changed; entry n holds the sha256 of entry n-1, so the order and the
  content of everything before it are fixed by the last one;
* an `append` that returned is there exactly once, after everything appended before it; one that
  raised may or may not be there, so the ledger closes: open it again and replay;
* only one driver's entry can be number n. The driver whose entry was refused was fenced: it stops
  (`LedgerFenced`). A refusal whose bytes are this driver's own (every entry carries its driver's
  nonce) was a success whose answer got lost;
* reading checks everything it passes: a changed byte, a truncated, empty or missing entry is a
  `CorruptObject` that names it. Only a missing last entry leaves no gap: `at_least` finds it.

An entry is one JSON object, `{"checksum": …, "events": […], "format": 1, "n": …, "nonce": …,
"previous": …, "run": …}`; the checksum is the sha256 of the same object without it. Its events were
committed together: a driver appends all that became ready during its last write.

A snapshot, `runs/<run>/snapshots/<n>.json`, is the state after entry n; a damaged one costs time
(`resume` uses the one before), never truth.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.errors import BadConfig, CorruptObject, LedgerNewer, StoreError, StoreMissing
from pipeline.hashing import canonical_json, sha256_hex
from pipeline.storage.store import Store

FORMAT = 1
GENESIS = "0" * 64
"""What stands for the predecessor of the first entry."""

Event = dict[str, Any]
State = dict[str, Any]

_log = logging.getLogger("mstar.ledger")
_ENTRY = re.compile(r"(\d{10})\.json")
_RUN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_SEAL = re.compile(rb'\{"checksum":"([0-9a-f]{64})",')


class LedgerFenced(StoreError):
    """Another driver has taken the run over: this one must stop."""


class LedgerClosed(StoreError):
    """An earlier write did not come back: only replaying tells whether it landed."""


@dataclass(frozen=True)
class LedgerEntry:
    """One verified entry; `sha256` is what its successor must name."""

    n: int
    sha256: str
    nonce: str
    events: tuple[Event, ...]


@dataclass(frozen=True)
class _Head:
    """The last entry this ledger knows: its number (-1: none) and hash."""

    n: int
    sha256: str


def is_run_name(text: str) -> bool:
    """Whether a run can have this name, which names folders and objects."""
    return _RUN.fullmatch(text) is not None


def check_run_name(run: str) -> str:
    """Return `run`, which names folders and objects.

    Raises:
        BadConfig: when it could not.
    """
    if not is_run_name(run):
        raise BadConfig(
            f"run name {run!r}: use letters, digits, dots, hyphens and underscores, at most 100"
        )
    return run


def seal(content: Mapping[str, Any]) -> bytes:
    """Canonical JSON with the sha256 of itself in front, as "checksum"."""
    body = canonical_json(content)
    return b'{"checksum":"%s",' % sha256_hex(body).encode() + body[1:]


def unseal(data: bytes, what: str) -> dict[str, Any]:
    """The content of sealed bytes.

    Raises:
        CorruptObject: naming `what`, when a byte of it is not what was sealed.
        LedgerNewer: a later version of this program sealed it.
    """
    found = _SEAL.match(data)
    if found is None:
        size = "is empty" if not data else f"({len(data)} bytes) does not begin with its checksum"
        raise CorruptObject(f"{what} {size}")
    body = b"{" + data[found.end() :]
    if sha256_hex(body).encode() != found.group(1):
        raise CorruptObject(f"{what} does not match its checksum")
    content: dict[str, Any] = json.loads(body)
    if content.get("format") != FORMAT:
        raise LedgerNewer(
            f"{what} has format {content.get('format')!r}, and this program reads {FORMAT}: "
            "use the version that wrote it"
        )
    return content


def _checked(events: Sequence[Mapping[str, Any]]) -> list[Event]:
    for event in events:
        if not isinstance(event.get("type"), str) or not event["type"]:
            raise ValueError(f'every event has a "type"; this one has none: {event!r}')
    return [dict(event) for event in events]


def _numbers_in(paths: Iterable[str]) -> list[int]:
    """The numbers that paths are named by, ascending; other names are not ours."""
    names = (path.rsplit("/", 1)[1] for path in paths)
    return sorted(int(found.group(1)) for found in map(_ENTRY.fullmatch, names) if found)


class Ledger:
    """One run's ledger, as one driver sees it.

    ::

        unread ──replay() or resume() read to the end, or first append()──► open ──► append() …
                                                                             │
                               closed ◄── an append() raised anything ───────┘

    `guard` is called before each write where the store does not refuse a second writer itself
    (`Store.conditional_writes`): a lease's `check`.
    """

    def __init__(
        self,
        store: Store,
        run: str,
        *,
        nonce: str | None = None,
        guard: Callable[[], None] | None = None,
        say: Callable[[str], None] = _log.warning,
    ) -> None:
        self.store = store
        self.run = check_run_name(run)
        self.nonce = nonce or secrets.token_hex(8)
        self._guard = guard
        self._say = say
        self._head: _Head | None = None
        self._reading = False
        self._closed: str | None = None

    @property
    def folder(self) -> str:
        return f"runs/{self.run}/ledger"

    @property
    def snapshots(self) -> str:
        return f"runs/{self.run}/snapshots"

    def path(self, n: int) -> str:
        """Where entry `n` lies."""
        return f"{self.folder}/{n:010d}.json"

    @property
    def position(self) -> int:
        """The number of the last entry, -1 for an empty ledger."""
        return self._open_head().n

    # --- writing --------------------------------------------------------------------------------

    def append(self, events: Sequence[Mapping[str, Any]]) -> int:
        """Commit `events` together and return their entry's number; no events, no entry.

        Raises:
            LedgerFenced: when another driver wrote this entry; this one must stop.
            StoreError: when the store gave up; whether the entry landed is not known.
            ValueError, TypeError: for an event without "type" or without a canonical form; nothing
                was written.
        """
        checked = _checked(events)
        if not checked:
            return self.position
        written = self._write(checked)
        if written is None:
            raise LedgerFenced(
                f"run {self.run}: another driver has taken the run over. This one stops; what it "
                "finished is in the store for the other to use."
            )
        return written

    def _write(self, events: list[Event]) -> int | None:
        """Create the next entry; None when another driver's has its number."""
        head = self._open_head()
        n = head.n + 1
        data = seal(
            {
                "events": events,
                "format": FORMAT,
                "n": n,
                "nonce": self.nonce,
                "previous": head.sha256,
                "run": self.run,
            }
        )
        self._closed = f"writing entry {n} did not end well"
        if self._guard is not None and not self.store.conditional_writes():
            self._guard()
        if not self.store.create(self.path(n), data):
            self._closed = f"another driver wrote entry {n}"
            return None
        self._head, self._closed = _Head(n, sha256_hex(data)), None
        return n

    def claim(self, event: Mapping[str, Any], apply: Callable[[Event], None]) -> int:
        """Append this driver's first event; from then on every write of an earlier one is refused.

        What the earlier driver still wrote since this one replayed is applied first. Only the
        holder of the lease may claim.
        """
        checked = _checked([event])
        while True:
            for entry in self._newer():
                for other in entry.events:
                    apply(other)
            written = self._write(checked)
            if written is not None:
                return written
            self._say(f"run {self.run}: its earlier driver is still writing; reading on")
            self._closed = None

    def _newer(self) -> Iterator[LedgerEntry]:
        """The entries behind the head, which they move."""
        while True:
            head = self._open_head()
            try:
                data = self.store.get(self.path(head.n + 1))
            except StoreMissing:
                return
            entry = self.checked(head.n + 1, data, head.sha256)
            self._head = _Head(entry.n, entry.sha256)
            yield entry

    def _open_head(self) -> _Head:
        if self._closed is not None:
            raise LedgerClosed(f"run {self.run}: {self._closed}; open the ledger anew and replay")
        if self._reading:
            raise LedgerClosed(f"run {self.run}: the ledger was not read to its end")
        if self._head is None:
            self._head = self._find_head()
        return self._head

    def _find_head(self) -> _Head:
        numbers = self.numbers()
        if not numbers:
            return _Head(-1, GENESIS)
        data = self.store.get(self.path(numbers[-1]))
        return _Head(numbers[-1], self.checked(numbers[-1], data, None).sha256)

    # --- reading --------------------------------------------------------------------------------

    def numbers(self) -> list[int]:
        """The numbers of the entries that are there, ascending."""
        return _numbers_in(self.store.list(self.folder))

    def _what(self, n: int) -> str:
        return f"{self.store.url}: ledger entry {self.path(n)}"

    def checked(self, n: int, data: bytes, previous: str | None) -> LedgerEntry:
        """The entry `n` that `data` is; CorruptObject, naming it, when it is not that."""
        what = self._what(n)
        content = unseal(data, what)
        if (content["n"], content["run"]) != (n, self.run):
            raise CorruptObject(f"{what} is entry {content['n']} of run {content['run']}")
        if previous is not None and content["previous"] != previous:
            raise CorruptObject(f"{what} does not follow the entry before it")
        return LedgerEntry(n, sha256_hex(data), content["nonce"], tuple(content["events"]))

    def entries(self, *, at_least: int = -1) -> Iterator[LedgerEntry]:
        """Every entry from the first, verified, in constant memory.

        Raises:
            CorruptObject: naming the entry that is damaged or missing; with `at_least`, also when
                the ledger ends before that entry.
        """
        # listed first: another driver may be writing, and its entries come before its snapshots
        at_least = max([at_least, *self.snapshot_numbers()])
        return self._start(_Head(-1, GENESIS), self.numbers(), at_least)

    def _start(self, head: _Head, numbers: Sequence[int], at_least: int) -> Iterator[LedgerEntry]:
        """Check that no entry from `head` up to `at_least` is missing, then read them."""
        wanted = [n for n in numbers if n > head.n]
        last = wanted[-1] if wanted else head.n
        for n, found in zip(range(head.n + 1, last + 1), wanted, strict=False):
            if n != found:
                raise CorruptObject(f"{self._what(n)} is missing; there are later ones")
        if last < at_least:
            raise CorruptObject(
                f"{self._what(last + 1)} is missing: a snapshot or its driver's lease says that it "
                "was written"
            )
        self._reading = True
        return self._read(head, wanted)

    def _read(self, head: _Head, wanted: Sequence[int]) -> Iterator[LedgerEntry]:
        contents = self.store.get_many(map(self.path, wanted))
        for n, data in zip(wanted, contents, strict=True):
            entry = self.checked(n, data, head.sha256)
            head = _Head(n, entry.sha256)
            yield entry
        self._head, self._reading = head, False

    def replay(self, *, at_least: int = -1) -> Iterator[Event]:
        """Every event of the run, in order. Raises as `entries`."""
        for entry in self.entries(at_least=at_least):
            yield from entry.events

    def resume(self, *, at_least: int = -1) -> tuple[State | None, Iterator[Event]]:
        """The newest good snapshot (None: there is none) and the events after it.

        A damaged snapshot is said, quarantined and passed over. Raises as `entries`.
        """
        snapshots = self.snapshot_numbers()  # before the entries, as in `entries`
        numbers = self.numbers()
        state, head = self._newest_snapshot(snapshots, set(numbers))
        entries = self._start(head, numbers, max([at_least, *snapshots]))
        return state, (event for entry in entries for event in entry.events)

    # --- snapshots ------------------------------------------------------------------------------

    def snapshot_path(self, n: int) -> str:
        """Where the snapshot after entry `n` lies."""
        return f"{self.snapshots}/{n:010d}.json"

    def snapshot(self, state: Mapping[str, Any]) -> str:
        """Store `state`, which must be that after the last entry; returns its path."""
        head = self._open_head()
        path = self.snapshot_path(head.n)
        content = {"format": FORMAT, "head": head.sha256, "n": head.n, "run": self.run}
        self.store.put(path, seal({**content, "state": dict(state)}))
        return path

    def snapshot_numbers(self) -> list[int]:
        """The entries after which a snapshot is there, ascending."""
        return _numbers_in(self.store.list(self.snapshots))

    def _newest_snapshot(
        self, snapshots: Sequence[int], numbers: set[int]
    ) -> tuple[State | None, _Head]:
        for n in reversed(snapshots):
            path = self.snapshot_path(n)
            what = f"{self.store.url}: snapshot {path}"
            try:
                content = unseal(self.store.get(path), what)
            except CorruptObject as error:
                self._say(f"{error}; using an earlier one")
                self.store.quarantine(path)
                continue
            head = _Head(content["n"], content["head"])
            ours = (head.n, content["run"]) == (n, self.run)
            if ours and self._follows(head, numbers):
                return content["state"], head
            self._say(f"{what} is not of this ledger; using an earlier one")
        return None, _Head(-1, GENESIS)

    def _follows(self, head: _Head, numbers: set[int]) -> bool:
        """Whether the ledger agrees that entry `head.n` has the hash that the snapshot names."""
        if head.n + 1 in numbers:
            n = head.n + 1
            named = unseal(self.store.get(self.path(n)), self._what(n))["previous"]
            return bool(named == head.sha256)
        if head.n in numbers:
            return sha256_hex(self.store.get(self.path(head.n))) == head.sha256
        return False
