"""Looks at what a run asks of its store, and strikes at the planned moments.

What always holds: one kill at a time, and the next one only after the ledger has grown again (and,
where that kill ends the job, after it was started again); every
kill is recorded with its victim's process, the ledger's position, and how long the next accepted
shard took.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from random import Random
from typing import Any

from cluster.s3_proxy import Seen, Verdict
from jobs.chaos.plan import ENDS_A_LIFE, Kill, stage_of, window_of

Strike = Callable[[Kill], int | None]
"""Kills the victim and gives its process id; None when it was not at work."""

# Windows that come up often are not always taken, so that they are met in different stages.
_RARE = {
    "mid-snapshot",
    "after a checkpoint's event, before the old one's delete",
    "after the labels' upload, before their event",
}
_OFTEN = 0.3


@dataclass
class Record:
    """One kill that happened. position: of the ledger. next_shard_s: seconds until a shard was
    accepted, None while there was none."""

    stage: str
    victim: str
    window: str
    pid: int
    position: int
    at_s: float
    next_event_s: float | None = None
    next_shard_s: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON form."""
        return asdict(self)


class Watch:
    """The proxy's hook for one run, whose store begins at `prefix` ("bucket/name")."""

    def __init__(
        self,
        kills: Sequence[Kill],
        prefix: str,
        strike: Strike,
        *,
        seed: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.pending = list(kills)
        self.records: list[Record] = []
        self.again: list[str] = []
        self._prefix = f"{prefix}/"
        self._strike = strike
        self._random = Random(seed)
        self._clock = clock
        self._started = clock()
        self._lock = threading.Lock()
        self._busy = False
        self._dying = False
        self._stage = ""
        self._position = -1
        self._accepted: dict[str, str] = {}

    def new_life(self) -> None:
        """The run is started (again): there is somebody to strike."""
        with self._lock:
            self._dying = False

    # --- the hook -------------------------------------------------------------------------------

    def __call__(self, seen: Seen) -> Verdict:
        if not seen.path.startswith(self._prefix):
            return "pass"
        path = seen.path.removeprefix(self._prefix)
        with self._lock:
            self._look_for_doubles(seen, path)
            entry = seen.method == "PUT" and "/ledger/" in path and path.endswith(".json")
            if entry and seen.moment == "after" and seen.status == 200:
                self._entry(path, seen.body)
            return self._window(seen, path)

    def _look_for_doubles(self, seen: Seen, path: str) -> None:
        """A worker that stores a shard first asks whether it is there."""
        parts = path.split("/")
        asks = seen.moment == "before" and seen.method in ("HEAD", "PUT")
        if asks and parts[:2] == ["shards", "rollout"] and parts[2] in self._accepted:
            self.again.append(parts[2])

    def _entry(self, path: str, body: bytes) -> None:
        """An entry is in the ledger."""
        events = json.loads(body)["events"]
        self._position = int(path.rsplit("/", 1)[-1].removesuffix(".json"))
        for event in events:
            if event["type"] == "shard_accepted":
                self._accepted[event["key"]] = event["rollout"]
            elif event["type"] == "object_lost":
                kept = self._accepted.items()
                self._accepted = {key: at for key, at in kept if at != event["path"]}
        self._recovered(any(event["type"] == "shard_accepted" for event in events))
        stages = [stage for event in events if (stage := stage_of(event))]
        if stages:
            self._stage = stages[-1]
            self._set_off(stages)

    def _recovered(self, accepted: bool) -> None:
        now = self._now()
        for record in self.records:
            if record.next_event_s is None:
                record.next_event_s = round(now - record.at_s, 2)
                self._busy = False
            if accepted and record.next_shard_s is None:
                record.next_shard_s = round(now - record.at_s, 2)

    def _now(self) -> float:
        return self._clock() - self._started

    # --- striking -------------------------------------------------------------------------------

    def _set_off(self, stages: Sequence[str]) -> None:
        due = (one for one in self.pending if one.stage in stages and not one.window)
        kill = next(due, None)
        if kill is not None and not self._busy and not self._dying:
            self._busy = True
            threading.Thread(target=self._later, args=(kill,), daemon=True).start()

    def _later(self, kill: Kill) -> None:
        time.sleep(kill.delay_s)
        position, at_s = self._position, self._now()
        pid = self._struck(kill)
        with self._lock:
            if pid is not None:
                self._done(kill, pid, position, at_s)

    def _struck(self, kill: Kill) -> int | None:
        """Its process; None when it was not at work: it is struck at the next chance."""
        pid = None
        try:
            pid = self._strike(kill)
        finally:
            if pid is None:
                self._busy = False
        return pid

    def _window(self, seen: Seen, path: str) -> Verdict:
        window = window_of(seen.method, path, len(seen.body), seen.moment, seen.status)
        kill = next((one for one in self.pending if window and one.window == window), None)
        if kill is None or self._busy or self._dying or self._position < 0:
            return "pass"
        # scores are only made where they are, whatever else goes on beside
        if kill.stage not in ("", "score", self._stage):
            return "pass"
        if window not in _RARE and not kill.stage and self._random.random() > _OFTEN:
            return "pass"
        self._busy = True
        cut = window.startswith("mid-")
        at_s = self._now()
        pid = self._struck(kill)
        if pid is None:
            return "pass"
        self._done(kill, pid, self._position, at_s)
        return "cut" if cut else "drop"

    def _done(self, kill: Kill, pid: int, position: int, at_s: float) -> None:
        self.pending.remove(kill)
        # Whoever is left of such a life is not at work any more.
        self._dying = kill.victim in ENDS_A_LIFE
        stage = kill.stage or self._stage
        record = Record(stage, kill.victim, kill.window, pid, position, round(at_s, 2))
        if self._position > position and kill.victim != "driver":
            record.next_event_s = 0.0  # the driver went on meanwhile
            self._busy = False
        self.records.append(record)
