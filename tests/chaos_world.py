"""A run that anything may happen to: lives of drivers over one store, and what must always hold.

A life is one driver from its start to its end. Its script says at which call (of the store, of
engines, grader or learner; counted together) which `Fault` strikes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, Literal

from pipeline.agenda import RunStopped
from pipeline.config import Config
from pipeline.driver import Driver
from pipeline.errors import CorruptObject, StoreError, StoreMissing
from pipeline.lease import Lease, LeaseHeld
from pipeline.ledger import Ledger, LedgerFenced
from pipeline.program import Program
from pipeline.state import State
from pipeline.store import Store
from pipeline.store_backend import MemoryBackend
from pipeline.store_tree import manifest_path
from tests.scripted import Clock, Quiet, make_config, make_program, with_base
from tests.scripted_store import Crash, ScriptedBackend
from tests.scripted_store import Fault as StoreFault
from tests.scripted_world import Hooked, Mail, make_world

Kind = StoreFault | Literal["damage", "overtake", "wake"]
Damage = Literal["flip", "cut", "empty", "remove"]
RUN = "scripted"


@dataclass(frozen=True)
class Fault:
    """What happens at call number `at` of a life; `pick` says to what, or how far."""

    at: int
    kind: Kind
    pick: int = 0
    damage: Damage = "flip"


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


def small_config(**changes: Any) -> Config:
    """The least that goes through every stage: 2 iterations of 3 queries."""
    return make_config(
        warmup={"samples": 1, "queries": 4, "epochs": 1, "flat_evaluations": 1},
        generate={"samples": 2, "shard_queries": 1, "lookahead": 2, "max_new_tokens": 64},
        evolve={"iterations": 2, "interval": 0.25, "epochs": 3},
        evaluate={"samples": 0, "shard_queries": 3},
        **changes,
    )


class Lives:
    """One run, its store, and the drivers that lived on it."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.program: Program = make_program(with_base(small_config(**changes), folder / "base"))
        self.memory = Remembering()
        self.clock = Clock()
        self.watch = Looking(self)
        self.late: list[Callable[[], Any]] = []
        self.ever_damaged: set[str] = set()
        self.overtaken = False
        self.learner_dies_at = 0
        self.heard: list[str] = []
        self._asked = 0
        self._failing: tuple[range, StoreError] = (range(0), StoreError())
        self._mail = Mail(Random(0))
        self._plan: dict[int, Fault] = {}
        self._calls = 0

    # --- lives ----------------------------------------------------------------------------------

    def live(self, faults: Iterable[Fault] = (), **how: Any) -> State | None:
        """One driver, until it ends: the state of a finished run, None when it died or stopped."""
        try:
            return self.drive(faults, **how)
        except Crash:
            return None
        except (LedgerFenced, LeaseHeld):
            assert self.overtaken
        except (RunStopped, CorruptObject, StoreMissing) as error:
            self._must_name_damage(error)
            self.heal()
        return None

    def drive(
        self,
        faults: Iterable[Fault] = (),
        *,
        seed: int = 0,
        twice: float = 0.0,
        slow: float = 0.0,
        copies: bool = True,
    ) -> State:
        """`live`, with whatever it raises."""
        self._plan, self._calls, self.overtaken = {fault.at: fault for fault in faults}, 0, False
        backend = ScriptedBackend(self.memory, self._strike_store)
        try:
            driver = self._driver(backend, seed, twice, slow, copies=copies)
            state = driver.run()
            self._lease.release()
            return state
        finally:
            self._plan = {}
            self.late = [work for work in self._mail.waiting if callable(work)]

    @staticmethod
    def crash_at(call: int) -> list[Fault]:
        """A life that ends there."""
        return [Fault(call, "crash_before")]

    def _driver(
        self, backend: ScriptedBackend, seed: int, twice: float, slow: float, *, copies: bool
    ) -> Driver:
        store = Store(
            backend,
            patience_s=60.0,
            sleep=self.clock.sleep,
            say=self.heard.append,
        )
        lease = Lease(store, RUN, clock=self.clock, sleep=self.clock.sleep, say=lambda line: None)
        lease.acquire(take_over=True)
        self._lease = lease
        world, fleet, learner = make_world(store, self.program, seed, twice)
        fleet.slow, learner.fail_at, learner.save_every = slow, self.learner_dies_at, 1
        world = replace(
            world,
            fleet=Hooked(Bounded(fleet, self), "fleet", self._strike_role),
            grader=Hooked(world.grader, "grader", self._strike_role),
            learner=Hooked(learner, "learner", self._strike_role),
            repair=self._repair if copies else (lambda path: False),
        )
        self._mail = fleet.mail
        ledger = Ledger(store, RUN, nonce=lease.nonce, guard=lease.check, say=self.heard.append)
        made = Driver(
            self.program,
            store,
            ledger,
            world,
            self.watch,
            lease=lease,
            clock=self.clock,
            sleep=self.clock.sleep,
        )
        self.watch.driver = made
        return made

    def fail_calls(self, at: int, count: int, error: StoreError) -> None:
        """From its call number `at` on, the store answers `count` times with this error."""
        self._asked, self._failing = 0, (range(at, at + count), error)

    def _strike_store(self, operation: str, path: str, number: int) -> StoreFault | None:
        self._asked += 1
        if self._asked in self._failing[0]:
            raise self._failing[1]
        fault = self._next()
        if fault is None:
            return None
        kind = fault.kind
        return None if kind == "damage" or kind == "overtake" or kind == "wake" else kind  # noqa: PLR1714

    def _strike_role(self, call: str) -> None:
        fault = self._next()
        if fault is not None and fault.kind in ("crash_before", "crash_after"):
            raise Crash(call)

    def _next(self) -> Fault | None:
        """The fault of this call; those that need nobody's answer happen here."""
        self._calls += 1
        fault = self._plan.get(self._calls)
        if fault is None:
            return None
        if fault.kind == "damage":
            self.damage(fault.pick, fault.damage)
        elif fault.kind == "overtake":
            self._overtake(fault)
        elif fault.kind == "wake" and self.late:
            self.late.pop(fault.pick % len(self.late))()
        return fault

    def _overtake(self, fault: Fault) -> None:
        """While one driver stands still, another takes the run over, for `pick` calls."""
        mine, plan, calls = self.watch.driver, self._plan, self._calls
        self._plan, self._calls, self.overtaken = {}, 0, True
        dies = {fault.pick: Fault(fault.pick, "crash_before")}
        backend = ScriptedBackend(
            self.memory,
            lambda operation, path, number: "crash_before" if number in dies else None,
        )
        try:
            self._driver(backend, fault.pick, 0.0, 0.0, copies=True).run()
        except Crash:
            pass
        except (RunStopped, CorruptObject, StoreMissing) as error:
            self._must_name_damage(error)
        self.watch.driver, self._plan, self._calls = mine, plan, calls

    # --- damage and repair ----------------------------------------------------------------------

    def damage(self, pick: int, how: Damage) -> None:
        """Harm one object that somebody may read again."""
        kinds = ("shards/", "policies/", "checkpoints/", f"runs/{RUN}/ledger", f"runs/{RUN}/snap")
        start = kinds[pick % len(kinds)]
        # `good` is in the order of writing: what was written last is what is read next
        newest = [path for path in reversed(self.memory.good) if path.startswith(start)][:4]
        if not newest:
            return
        path = newest[pick // len(kinds) % len(newest)]
        self.memory.lay(path, damaged(self.memory.good[path], how, pick))
        self.ever_damaged.add(path)

    def heal(self) -> None:
        """A person puts everything back from elsewhere."""
        for path in self.ever_damaged:
            if path in self.memory.good:
                self.memory.lay(path, self.memory.good[path])

    def heal_ledger(self) -> None:
        """As a person who has to: without a whole ledger no driver goes on."""
        for path in self.ever_damaged:
            if path.startswith(f"runs/{RUN}/ledger") and path in self.memory.good:
                self.memory.lay(path, self.memory.good[path])

    def _repair(self, path: str) -> bool:
        """`World.repair`: a copy outside the store of policies and checkpoints."""
        if not path.startswith(("policies/", "checkpoints/")):
            return False
        kept = [name for name in self.memory.good if name.startswith((f"{path}/", f"{path}."))]
        for name in kept:
            self.memory.lay(name, self.memory.good[name])
        return bool(kept)

    def _must_name_damage(self, error: Exception) -> None:
        """A driver stops for damage, or for what it was overtaken by; and it names the object."""
        if self.overtaken:
            return
        named = [path for path in self.ever_damaged if _prefix(path) in str(error)]
        assert named, f"stopped for nothing: {error!r}"

    # --- what holds -----------------------------------------------------------------------------

    @property
    def store(self) -> Store:
        return Store(self.memory)

    def entries(self) -> list[Any]:
        return list(Ledger(self.store, RUN).entries())

    def events(self) -> list[Mapping[str, Any]]:
        return [event for entry in self.entries() for event in entry.events]

    def check_ledger(self) -> None:
        """One chain, written by one driver after the other; no shard accepted twice."""
        nonces = [entry.nonce for entry in self.entries()]
        tenures = [n for i, n in enumerate(nonces) if i == 0 or nonces[i - 1] != n]
        assert len(tenures) == len(set(tenures)), "a driver wrote after it was overtaken"
        accepted: dict[tuple[str, int], str] = {}
        for event in self.events():
            if event["type"] == "evaluation_lost":
                accepted = {k: v for k, v in accepted.items() if k[0] != event["purpose"]}
            if event["type"] not in ("shard_accepted", "object_lost"):
                continue
            one = (event["purpose"], event["index"])
            if event["type"] == "shard_accepted":
                assert one not in accepted, f"{one} was accepted twice"
                accepted[one] = event["rollout"]
            elif accepted.get(one) == event["path"]:
                del accepted[one]

    def check_checkpoints(self, state: State) -> None:
        """What a job would go on from is whole; what was retired is gone."""
        kept = {job.checkpoint.path for job in state.jobs.values() if job.checkpoint is not None}
        there = {path.split(".")[0] for path in self.memory.good if path.endswith(".manifest.json")}
        assert kept <= there
        assert not set(state.retired) & there


def _prefix(path: str) -> str:
    """What an error calls an object: a file of a tree goes by its tree."""
    parts = path.split("/")
    return "/".join(parts[:3]).removesuffix(".manifest.json") if parts[0] in _TREES else path


_TREES = ("policies", "checkpoints")


class Bounded:
    """The fleet, and what must hold whenever something is handed to it."""

    def __init__(self, fleet: Any, lives: Lives) -> None:
        self._fleet, self._lives = fleet, lives

    def submit(self, spec: Any, policy: Any) -> None:
        driver = self._lives.watch.driver
        assert driver is not None
        shards = driver.state.shards.get(spec.purpose, {})
        assert spec.index not in shards, f"{spec.purpose} {spec.index} is accepted and made again"
        first = next(i for i in range(10**6) if i not in shards or not shards[i].done)
        assert spec.index < first + self._lives.program.config.generate.lookahead
        self._fleet.submit(spec, policy)

    def poll(self) -> Any:
        return self._fleet.poll()


class Looking(Quiet):
    """Looks at every event when it is committed: what it names is complete in the store."""

    def __init__(self, lives: Lives) -> None:
        super().__init__()
        self._lives = lives
        self.driver: Driver | None = None
        self.react: Callable[[Mapping[str, Any]], None] = lambda event: None

    def event(self, event: Mapping[str, Any], state: State) -> None:
        for path in _named(event):
            good = self._lives.memory.good
            assert path in good, f"{event['type']} names {path}, which was never whole"
        self.react(event)


def _named(event: Mapping[str, Any]) -> list[str]:
    match event["type"]:
        case "shard_accepted":
            return [event["rollout"]]
        case "shard_graded":
            return [path for path in (event["grades"], event["selected"]) if path]
        case "policy_published":
            return [manifest_path(event["path"])]
        case "checkpoint_saved":
            return [manifest_path(event["checkpoint"]["path"])]
        case "job_done":
            return [manifest_path(event[one]["path"]) for one in ("checkpoint", "policy")]
    return []
