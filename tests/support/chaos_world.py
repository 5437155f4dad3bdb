"""A run that anything may happen to: lives of drivers over one store, and what must always hold.

A life is one driver from its start to its end. Its script says at which call (of the store, of
engines, grader or learner; counted together) which `Fault` strikes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, Literal

from pipeline.config.schema import Config
from pipeline.driver.context import RunContext
from pipeline.driver.driver import drive
from pipeline.errors import CorruptObject, RunStopped, StoreError, StoreMissing
from pipeline.hashing import sha256_hex
from pipeline.phases.order import PHASES, Phase
from pipeline.run.events.event import Event
from pipeline.run.lease import Lease, LeaseHeld
from pipeline.run.ledger import Ledger, LedgerFenced
from pipeline.run.spec import RunSpec
from pipeline.run.state import State
from pipeline.simulation.learner import ScriptedLearner
from pipeline.simulation.mail import Mail
from pipeline.simulation.workers import Hooked, scripted_workers
from pipeline.storage.store import Store
from pipeline.storage.trees import manifest_path
from tests.support.chaos_memory import Damage, Remembering, damaged
from tests.support.chaos_roles import GAVE_UP, Careless, fail
from tests.support.driving import outcome
from tests.support.scripted import Clock, Quiet, make_config, make_program, with_base
from tests.support.scripted_store import Crash, ScriptedBackend
from tests.support.scripted_store import Fault as StoreFault

Kind = StoreFault | Literal["damage", "overtake", "wake", "fail"]
RUN = "scripted"

LEDGER, LEASE = f"runs/{RUN}/ledger", f"runs/{RUN}/lease"

IMAGES = {sha256_hex(data): data for data in (b"one", b"two", b"three")}


@dataclass(frozen=True)
class Fault:
    """What happens at call number `at` of a life; `pick` says to what, or how far."""

    at: int
    kind: Kind
    pick: int = 0
    damage: Damage = "flip"


def small_config(**changes: Any) -> Config:
    """The least that goes through every stage: 2 iterations of 3 queries."""
    return make_config(
        warmup={"samples": 1, "queries": 4, "epochs": 1, "flat_evaluations": 1},
        generate={"samples": 2, "shard_queries": 1, "lookahead": 2, "max_new_tokens": 64},
        evolve={"iterations": 2, "interval": 0.25, "epochs": 3},
        evaluate={"samples": 0, "shard_queries": 3},
        **changes,
    )


EXPLORING: dict[str, Any] = {
    "explore": {"every": 1, "grid": [0.7, 1.0], "samples": 2, "queries": 3, "by": "pass_at_k",
                "mode": "argmax"},
    "dynamics": {"every": 2, "grid": [0.7], "samples": 2, "queries": 3},
}  # fmt: skip
"""Two searches between two temperatures, and dynamics that share their samples."""


class Lives:
    """One run, its store, and the drivers that lived on it."""

    def __init__(self, folder: Path, phases: Sequence[Phase] = PHASES, **changes: Any) -> None:
        config = with_base(small_config(**changes), folder / "base")
        self.phases = phases
        self.program: RunSpec = make_program(config, list(IMAGES))
        self.memory = Remembering()
        for sha, data in IMAGES.items():
            self.memory.write(f"images/{sha}", data)
        self.clock = Clock()
        self.watch = Looking(self)
        self.late: list[Callable[[], Any]] = []
        self.ever_damaged: set[str] = set()
        self.overtaken = False
        self.learner_dies_at = 0
        self.heard: list[str] = []
        self._rotting = ""
        self._gave_up = False
        self._doomed: int | None = None  # who fails as soon as there is somebody
        self._asked = 0
        self._failing: tuple[range, StoreError] = (range(0), StoreError())
        self._mail = Mail(Random(0))
        self._learner: ScriptedLearner | None = None
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
            if not (self._gave_up and GAVE_UP in str(error)):
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
        self._gave_up, self._doomed = False, None
        backend = ScriptedBackend(self.memory, self._strike_store)
        try:
            context = self._context(backend, seed, twice, slow, copies=copies)
            state = drive(context, phases=self.phases)
            self._lease.release()
            return state
        finally:
            self._plan = {}
            self.late = [work for work in self._mail.waiting if callable(work)]
            if self._learner is not None:
                self.late.append(self._learner.poll)  # a step further than its driver knew of

    @staticmethod
    def crash_at(call: int) -> list[Fault]:
        """A life that ends there."""
        return [Fault(call, "crash_before")]

    def _context(
        self, backend: ScriptedBackend, seed: int, twice: float, slow: float, *, copies: bool
    ) -> RunContext:
        store = Store(
            backend,
            patience_s=60.0,
            sleep=self.clock.sleep,
            say=self.heard.append,
        )
        lease = Lease(store, RUN, clock=self.clock, sleep=self.clock.sleep, say=lambda line: None)
        lease.acquire(take_over=True)
        self._lease = lease
        scripted = scripted_workers(store, self.program, seed, twice)
        fleet, learner = scripted.fleet, scripted.learner
        fleet.slow, fleet.reads_images = slow, True
        learner.fail_at, learner.save_every = self.learner_dies_at, 1
        careless = Careless(learner, Random(seed), slow, twice)
        workers = replace(
            scripted.workers,
            fleet=Hooked(Bounded(fleet, self), "fleet", self._strike_role),
            grader=Hooked(scripted.grader, "grader", self._strike_role),
            learner=Hooked(careless, "learner", self._strike_role),
            stage=Hooked(scripted.stage, "stage", self._strike_role),
            repair=self._repair if copies else (lambda path: False),
        )
        self._mail, self._learner = fleet.mail, learner
        ledger = Ledger(store, RUN, nonce=lease.nonce, guard=lease.check, say=self.heard.append)
        self.watch.context = RunContext(
            self.program,
            store,
            ledger,
            workers,
            self.watch,
            lease=lease,
            clock=self.clock,
            sleep=self.clock.sleep,
        )
        return self.watch.context

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
        match fault.kind:
            case "damage" | "overtake" | "wake" | "fail":
                return None
            case kind:
                return kind

    def _strike_role(self, call: str) -> None:
        fault = self._next()
        if fault is not None and fault.kind in ("crash_before", "crash_after"):
            raise Crash(call)

    def _next(self) -> Fault | None:
        """The fault of this call; those that need nobody's answer happen here."""
        self._calls += 1
        if self._doomed is not None and self._learner is not None:
            failed = fail(self._learner, self._mail, self._doomed)
            self._doomed = None if failed else self._doomed
            self._gave_up |= failed == "shard"
        fault = self._plan.get(self._calls)
        if fault is None:
            return None
        if fault.kind == "damage":
            self.damage(fault.pick, fault.damage)
        elif fault.kind == "overtake":
            self._overtake(fault)
        elif fault.kind == "wake" and self.late:
            self.late.pop(fault.pick % len(self.late))()
        elif fault.kind == "fail":
            self._doomed = fault.pick
        return fault

    def _overtake(self, fault: Fault) -> None:
        """While one driver stands still, another takes the run over, for `pick` calls."""
        mine, plan, calls = self.watch.context, self._plan, self._calls
        self._plan, self._calls, self.overtaken = {}, 0, True
        dies = {fault.pick: Fault(fault.pick, "crash_before")}
        backend = ScriptedBackend(
            self.memory,
            lambda operation, path, number: "crash_before" if number in dies else None,
        )
        try:
            drive(self._context(backend, fault.pick, 0.0, 0.0, copies=True), phases=self.phases)
        except Crash:
            pass
        except (RunStopped, CorruptObject, StoreMissing) as error:
            self._must_name_damage(error)
        self.watch.context, self._plan, self._calls = mine, plan, calls

    # --- damage and repair ----------------------------------------------------------------------

    def damage(self, pick: int, how: Damage) -> None:
        """Harm one object that somebody may read again.

        The lease says how far the ledger reaches: of these two, one vouches for the other, and a
        run sees damage of one of them.
        """
        kinds = ("shards/", "policies/", "checkpoints/", LEDGER, f"runs/{RUN}/snap", "images/",
                 "shards/queries/", LEASE)  # fmt: skip
        start = kinds[pick % len(kinds)]
        if start in (LEDGER, LEASE):
            self._rotting = self._rotting or start
            if start != self._rotting:
                return
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
            if path.startswith(LEDGER) and path in self.memory.good:
                self.memory.lay(path, self.memory.good[path])

    def _repair(self, path: str) -> bool:
        """`World.repair`: a copy outside the store of policies, checkpoints and images."""
        if not path.startswith(("policies/", "checkpoints/", "images/")):
            return False
        tree = (f"{path}/", f"{path}.")
        kept = [name for name in self.memory.good if name == path or name.startswith(tree)]
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

    def outcome(self) -> dict[str, Any]:
        """What must not depend on what happened."""
        return outcome(self.events())

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
            if event["type"] == "iteration_closed":  # a policy that stays is explored again
                accepted = {k: v for k, v in accepted.items() if not k[0].startswith("explore/")}
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


@cache
def undisturbed(phases: Sequence[Phase] = PHASES, *, exploring: bool = False) -> dict[str, Any]:
    """The outcome of a run that nothing happens to."""
    with TemporaryDirectory() as folder:
        lives = Lives(Path(folder), phases, **(EXPLORING if exploring else {}))
        assert lives.live() is not None
        return lives.outcome()


class Bounded:
    """The fleet, and what must hold whenever something is handed to it."""

    def __init__(self, fleet: Any, lives: Lives) -> None:
        self._fleet, self._lives = fleet, lives

    def submit(self, spec: Any, policy: Any) -> None:
        context = self._lives.watch.context
        assert context is not None
        shards = context.state.shards.get(spec.purpose, {})
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
        self.context: RunContext | None = None

    def event(self, event: Event, state: State) -> None:
        for path in _named(event.to_wire()):
            good = self._lives.memory.good
            assert path in good, f"{event.type} names {path}, which was never complete"
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
