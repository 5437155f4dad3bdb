"""The lease: at most one driver of a run at a time, and a clear word to the second.

Each driver's tenure is one object, `runs/<run>/lease/<epoch>.json`: taking the run over is creating
the next epoch, which only one newcomer can do; only its holder rewrites it, to say that it lives.

What always holds:

* no clock of another machine is read: a lease has expired when the newcomer itself saw it unchanged
  for its time to live, and a moment in which the store was away does not count;
* a holder that released its lease, or whose process is seen to be dead on this very machine, is not
  waited for;
* a holder that lost its epoch learns it at its next renewal or check, and, whatever it believes, at
  its next write to the ledger (`Ledger.claim`).

Where the store has no conditional writes two newcomers may win one epoch at the same instant; the
ledger's guard then finds it out a moment later. Inside one Ray cluster a named actor excludes even
that.
"""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.errors import StoreError, StoreUnavailable, UserError
from pipeline.hashing import canonical_json
from pipeline.run.ledger import LedgerFenced, check_run_name
from pipeline.storage.store import Store

_log = logging.getLogger("mstar.lease")
_EPOCH = re.compile(r"(\d{6})\.json")
_LOOKS = 10
"""How often a newcomer looks at a lease during its time to live."""


class LeaseHeld(UserError):
    """Another driver is at work on this run."""


@dataclass(frozen=True)
class Process:
    """A process, named so that this machine can tell whether it still lives.

    `machine` is this boot of this machine and its process namespace, `birth` when the process began
    in ticks of it; both are empty where /proc is not there.
    """

    host: str
    pid: int
    machine: str = ""
    birth: str = ""


def _birth(pid: int) -> str | None:
    """When a process of this namespace began; None when it is gone, or dead and not buried."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, started = fields[0], fields[19]
    return None if state in "ZX" else started


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return ""


def this_process() -> Process:
    """The process that calls."""
    pid, machine = os.getpid(), _machine()
    return Process(socket.gethostname(), pid, machine, (_birth(pid) or "") if machine else "")


def is_dead(process: Process) -> bool:
    """Whether the process is known to be dead; False when it lives or cannot be seen from here."""
    if not process.machine or process.machine != _machine():
        return False
    try:
        os.kill(process.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False  # another user's: /proc may hide it
    return _birth(process.pid) != process.birth


@dataclass(frozen=True)
class Tenure:
    """What a lease object says. `position` is the last ledger entry its holder knew of."""

    epoch: int
    nonce: str
    holder: Process
    ttl_s: float
    beat: int = 0
    position: int = -1
    released: bool = False

    def to_json(self) -> bytes:
        return canonical_json(asdict(self))

    @property
    def who(self) -> str:
        return f"process {self.holder.pid} on {self.holder.host}"


def _folder(run: str) -> str:
    return f"runs/{check_run_name(run)}/lease"


def _path(run: str, epoch: int) -> str:
    return f"{_folder(run)}/{epoch:06d}.json"


def _parse(data: bytes, epoch: int, default_ttl_s: float) -> Tenure:
    """The tenure in `data`. A damaged one blocks nobody for longer than an intact one would."""
    try:
        raw: dict[str, Any] = json.loads(data)
        return Tenure(**{**raw, "holder": Process(**raw["holder"])})
    except (ValueError, TypeError, KeyError):
        return Tenure(epoch, "", Process("a host unknown (its lease is damaged)", 0), default_ttl_s)


def last_tenure(store: Store, run: str, default_ttl_s: float = 15.0) -> tuple[Tenure, bytes] | None:
    """The newest lease of a run and its bytes, None when nobody ever drove it."""
    names = [path.rsplit("/", 1)[1] for path in store.list(_folder(run))]
    epochs = [int(found.group(1)) for found in map(_EPOCH.fullmatch, names) if found]
    if not epochs:
        return None
    data = store.get(_path(run, max(epochs)))
    return _parse(data, max(epochs), default_ttl_s), data


class Lease:
    """This driver's right to a run.

    ::

        lease = Lease(store, run)
        lease.acquire(take_over=False)          # LeaseHeld while another driver lives
        ledger = Ledger(store, run, nonce=lease.nonce, guard=lease.check)
        state, events = ledger.resume(at_least=lease.inherited_position)
        …
        with lease.kept():                      # renewed in the background, released at the end
            ledger.claim({"type": "driver_started"}, state.apply)
            … ; lease.position = ledger.append(…)
    """

    def __init__(
        self,
        store: Store,
        run: str,
        *,
        nonce: str | None = None,
        ttl_s: float = 15.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        say: Callable[[str], None] = _log.warning,
        process: Process | None = None,
        dead: Callable[[Process], bool] = is_dead,
    ) -> None:
        self.store = store
        self.run = run
        self.nonce = nonce or secrets.token_hex(8)
        self.ttl_s = ttl_s
        self.position = -1
        self.inherited_position = -1
        self._clock, self._sleep, self._say, self._dead = clock, sleep, say, dead
        self._process = process or this_process()
        self._tenure: Tenure | None = None
        self._failure: StoreError | None = None
        self._writing = threading.Lock()

    # --- getting it -----------------------------------------------------------------------------

    def acquire(self, *, take_over: bool = False) -> None:
        """Become the driver, waiting up to the old lease's time to live to see whether it lives.

        Raises:
            LeaseHeld: when another driver lives, or was faster. With `take_over` nobody is waited
                for: the other driver stops at its next write.
        """
        found = last_tenure(self.store, self.run, self.ttl_s)
        last = None if found is None else found[0]
        if found is not None and not take_over:
            last = self._ended(*found)
        if last is not None:
            self.position = self.inherited_position = last.position
        epoch = 0 if last is None else last.epoch + 1
        mine = Tenure(epoch, self.nonce, self._process, self.ttl_s, position=self.position)
        if not self.store.create(_path(self.run, epoch), mine.to_json()):
            raise LeaseHeld(f"run {self.run}: another driver started at this moment; it goes on")
        self._tenure = mine

    def _ended(self, seen: Tenure, data: bytes) -> Tenure:
        """The tenure, once it is over; raises LeaseHeld as soon as it is seen to be renewed."""
        if seen.released or self._dead(seen.holder):
            return seen
        look_s = seen.ttl_s / _LOOKS
        self._say(
            f"run {self.run}: its last driver ({seen.who}) did not release its lease; watching for "
            f"{seen.ttl_s:.0f} s whether it is alive (--take-over does not wait)"
        )
        watched_s, before = 0.0, self._clock()
        while watched_s < seen.ttl_s:
            self._sleep(look_s)
            last, now_data = last_tenure(self.store, self.run, self.ttl_s) or (seen, data)
            if last.epoch == seen.epoch and (last.released or self._dead(last.holder)):
                return last
            if now_data != data:
                raise self._held(last)
            now = self._clock()
            # a long gap means that the store was away, for its holder too
            watched_s, before = watched_s + min(now - before, 2 * look_s), now
        return seen

    def _held(self, holder: Tenure) -> LeaseHeld:
        return LeaseHeld(
            f"run {self.run} is being driven by {holder.who}: it renewed its lease while this one "
            "watched. Stop it first; or start this one with --take-over, and the other stops at "
            "its next write."
        )

    # --- keeping it -----------------------------------------------------------------------------

    def _mine(self) -> Tenure:
        if self._tenure is None:
            raise RuntimeError("acquire the lease first")
        return self._tenure

    def renew(self) -> None:
        """Say that this driver lives, and how far its ledger has come.

        Raises:
            LedgerFenced: when another driver has taken over.
        """
        with self._writing:
            now = self._mine()
            path = _path(self.run, now.epoch)
            found = _parse(self.store.get(path), now.epoch, self.ttl_s)
            if found.nonce not in ("", self.nonce):
                raise self._fenced()
            self._tenure = replace(now, beat=now.beat + 1, position=self.position)
            self.store.replace(path, self._tenure.to_json())
        self.check()

    def check(self) -> None:
        """Raise LedgerFenced when another driver has taken over; what a ledger's guard calls."""
        if self._failure is not None:
            raise self._failure
        if self.store.exists(_path(self.run, self._mine().epoch + 1)):
            raise self._fenced()

    def _fenced(self) -> LedgerFenced:
        return LedgerFenced(f"run {self.run}: another driver has taken it over. This one stops.")

    def release(self) -> None:
        """Let the next driver start without waiting."""
        with self._writing:
            now = self._mine()
            self._tenure = replace(now, beat=now.beat + 1, position=self.position, released=True)
            self.store.replace(_path(self.run, now.epoch), self._tenure.to_json())

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Renew in the background; release at the end. A lost lease shows at the next `check`."""
        ended = threading.Event()

        def keep() -> None:
            while not ended.wait(self.ttl_s / 3):
                try:
                    self.renew()
                except StoreUnavailable:
                    continue  # the store has said so; a newcomer cannot watch us either
                except StoreError as error:  # for the driver's own thread to raise
                    self._failure = error
                    self._say(str(error))
                    return

        thread = threading.Thread(target=keep, name=f"lease of {self.run}", daemon=True)
        thread.start()
        release = True
        try:
            yield
        except StoreError:
            release = False  # fenced, or the store is away
            raise
        finally:
            ended.set()
            thread.join(self.ttl_s)
            if release and self._failure is None:
                self.release()
