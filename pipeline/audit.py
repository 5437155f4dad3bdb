"""An audit: every hash and every link of a run, checked without changing anything.

What is checked, each by reading the bytes again:

* the ledger: every entry's checksum, the chain, no gap, and that it reaches as far as its snapshots
  and its driver's lease say; every snapshot: its checksum, and that it is what replaying gives;
* every object that an event names and that no later event gave up: its hash, record and version;
  every file of every policy and of every checkpoint that was not retired; every image;
* the plan: each shard and each job has the key that the program (`pipeline.asked`) derives for it
  at that point of the run, so nothing else was sampled or trained on;
* each shard: whole groups, seeds, sampling parameters and policy of every rollout, a grade for
  each; every selected row is a rollout of this shard, token for token, that was graded correct.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from pipeline.agenda import next_step
from pipeline.asked import program_of
from pipeline.audit_shard import RECORDS_OF, ShardFiles, check_shard
from pipeline.errors import BadConfig, CorruptObject, StoreError, StoreMissing
from pipeline.lease import last_tenure
from pipeline.ledger import GENESIS, Ledger, LedgerEntry, unseal
from pipeline.paths import GAVE_UP, given_up, named, shard_stage
from pipeline.plan import ShardSpec
from pipeline.program import Program
from pipeline.records import read_table
from pipeline.state import State
from pipeline.steps import Annotate, RunStopped, SampleShards, Step, Train
from pipeline.store import Store, get_verified
from pipeline.store_tree import check_tree

PARALLEL = 8


@dataclass(frozen=True)
class Problem:
    """One thing that is not as it should be; `path` names the object."""

    path: str
    what: str

    def __str__(self) -> str:
        return f"{self.path}: {self.what}"


@dataclass
class Report:
    """What an audit found. objects: how many were read and hashed, trees counted as one."""

    run: str
    entries: int = 0
    events: int = 0
    objects: int = 0
    finished: bool = False
    problems: list[Problem] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Nothing is wrong."""
        return not self.problems


def audit(store: Store, run: str) -> Report:
    """Check a run.

    Raises:
        BadConfig: the store holds no run of this name.
        StoreError: the store itself cannot be read.
    """
    return _Audit(store, run).report


class _Audit:
    def __init__(self, store: Store, run: str) -> None:
        self.store = store
        self.ledger = Ledger(store, run)
        self.report = Report(run)
        self.state = State()
        self.program: Program | None = None
        self.specs: dict[tuple[str, int], ShardSpec] = {}
        # what must be there, and the entry that names it
        self.needed: dict[str, int] = {}
        self.shards: dict[tuple[str, int], ShardFiles] = {}
        self.whole = True
        snapshots = self.ledger.snapshot_numbers()  # before the entries: a driver may be writing
        self._read(snapshots)
        self._objects()
        self.report.finished = self.state.finished is not None

    def _bad(self, path: str, what: str) -> None:
        problem = Problem(path, what)
        if problem not in self.report.problems:
            self.report.problems.append(problem)

    # --- the ledger -----------------------------------------------------------------------------

    def _read(self, snapshots: list[int]) -> None:
        for entry in self._entries(snapshots):
            self.report.entries += 1
            for event in entry.events:
                self.report.events += 1
                self._event(entry.n, event)
            if entry.n in snapshots:
                self._snapshot(entry)

    def _entries(self, snapshots: list[int]) -> Iterator[LedgerEntry]:
        """Every entry that can be read; the others are named, and end the replay."""
        numbers = self.ledger.numbers()
        if not numbers and not snapshots:
            raise BadConfig(f"{self.store.url} holds no run {self.report.run!r}")
        tenure = last_tenure(self.store, self.report.run)
        written = tenure[0].position if tenure is not None else -1
        previous: str | None = GENESIS
        for n in range(max([-1, written, *numbers, *snapshots]) + 1):
            try:
                data = self.store.get(self.ledger.path(n))
                entry = self.ledger.checked(n, data, previous)
            except StoreMissing:
                self._broken(n, "this ledger entry is missing")
            except CorruptObject as error:
                self._broken(n, str(error))
            else:
                previous = entry.sha256
                yield entry
                continue
            previous = None

    def _broken(self, n: int, what: str) -> None:
        self._bad(self.ledger.path(n), what)
        self.whole = False

    def _snapshot(self, entry: LedgerEntry) -> None:
        path = self.ledger.snapshot_path(entry.n)
        try:
            content = unseal(self.store.get(path), f"snapshot {path}")
        except (CorruptObject, StoreMissing) as error:
            self._bad(path, str(error))
            return
        self.report.objects += 1
        if (content["n"], content["head"], content["run"]) != (
            entry.n,
            entry.sha256,
            self.report.run,
        ):
            self._bad(path, "it is not of this ledger")
        elif self.whole and State.from_dict(content["state"]) != self.state:
            self._bad(path, "it is not the state that replaying the ledger gives")

    # --- events ---------------------------------------------------------------------------------

    def _event(self, n: int, event: Mapping[str, Any]) -> None:
        kind = event["type"]
        if kind in GAVE_UP:
            for path in given_up(event):
                self.needed.pop(path, None)
            if kind == "object_lost":
                self._forget(event)
        else:
            self.needed.update(dict.fromkeys(named(event), n))
        if self.whole:
            try:
                self._follow(n, event)
                self.state.apply(event)
            except (CorruptObject, StoreMissing, RunStopped, ValueError, KeyError) as error:
                self._broken(n, f"its {kind} event does not follow from those before it: {error}")

    def _forget(self, event: Mapping[str, Any]) -> None:
        """A lost object takes what was made from it along."""
        place = (event["purpose"], event["index"])
        files = self.shards.pop(place, None)
        if files is None or files.accepted["rollout"] == event["path"]:
            return
        if files.scored is not None and files.scored["scores"] == event["path"]:
            self.shards[place] = replace(files, scored=None)
        else:
            self.shards[place] = ShardFiles(files.spec, files.accepted)

    def _follow(self, n: int, event: Mapping[str, Any]) -> None:
        """The event is what the program asks for at this point."""
        match event["type"]:
            case "run_created":
                self.program = program_of(self.store, event)
                self._images(self.program)
            case "shard_accepted":
                spec = self._spec(event)
                if spec is None and isinstance(self._step(), Annotate):
                    return  # completions: chosen by what other shards hold, named by their hashes
                if spec is None or spec.key != event["key"]:
                    self._bad(
                        self.ledger.path(n),
                        f"accepts {event['rollout']}, which no plan asks for",
                    )
                    return
                self.shards[event["purpose"], event["index"]] = ShardFiles(spec, event)
            case "shard_graded":
                self._add(event, graded=event, scored=None)
            case "shard_scored":
                self._add(event, scored=event)
            case "checkpoint_saved" | "job_done":
                step = self._step()
                if not isinstance(step, Train) or step.job.key != event["key"]:
                    self._bad(
                        self.ledger.path(n),
                        f"job {event['job']} did not train what the plan asks for",
                    )

    def _add(self, about: Mapping[str, Any], **events: Any) -> None:
        place = (about["purpose"], about["index"])
        if place in self.shards:
            self.shards[place] = replace(self.shards[place], **events)

    def _step(self) -> Step | None:
        if self.program is None:
            raise CorruptObject("the run has no beginning")
        return next_step(self.state, self.program)

    def _spec(self, event: Mapping[str, Any]) -> ShardSpec | None:
        """The shard that the plan has there. A purpose's plan is fixed when it is first used."""
        place = (event["purpose"], event["index"])
        if place not in self.specs:
            step = self._step()
            if isinstance(step, SampleShards) and step.purpose == event["purpose"]:
                self.specs |= {(step.purpose, spec.index): spec for spec in step.specs}
        return self.specs.get(place)

    # --- objects --------------------------------------------------------------------------------

    def _images(self, program: Program) -> None:
        shas = {sha for part in program.splits.values() for query in part for sha in query.images}
        self._each(sorted(shas), self._image)

    def _image(self, sha: str) -> list[Problem]:
        path = f"images/{sha}"
        try:
            get_verified(self.store, path, quarantine=False)
        except (StoreMissing, CorruptObject) as error:
            return [Problem(path, str(error))]
        return []

    def _objects(self) -> None:
        """Everything that is needed, shards with their links, each object read once."""
        in_shards = {path for files in self.shards.values() for path in files.paths}
        self._each(list(self.shards.values()), self._shard)
        rest = [path for path in self.needed if path not in in_shards]
        self._each(rest, self._object)
        self.report.objects += len(in_shards & self.needed.keys()) - len(self.shards)

    def _each(self, items: list[Any], check: Any) -> None:
        with ThreadPoolExecutor(PARALLEL) as pool:
            for problems in pool.map(check, items):
                self.report.objects += 1
                for problem in problems:
                    self._bad(problem.path, problem.what)

    def _shard(self, files: ShardFiles) -> list[Problem]:
        """A shard that was lost and not made again is not needed."""
        if not self.needed.keys() & set(files.paths):
            return []
        grader = "" if self.program is None else self.program.grader
        by_hash = {} if self.program is None else self.program.by_hash
        return [Problem(*one) for one in check_shard(self.store, files, by_hash, grader)]

    def _object(self, path: str) -> list[Problem]:
        if not shard_stage(path):
            return [Problem(path, line) for line in check_tree(self.store, path)]
        try:
            data = get_verified(self.store, path, quarantine=False)
            record = RECORDS_OF.get(str(shard_stage(path)))
            if record is not None:
                read_table(data, record)
        except StoreError as error:
            return [Problem(path, str(error))]
        return []


def to_dict(report: Report) -> dict[str, Any]:
    """Plain JSON form."""
    return asdict(report) | {"clean": report.clean}
