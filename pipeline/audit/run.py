"""An audit: every hash and every link of a run, checked without changing anything.

What is checked, each by reading the bytes again:

* the ledger: every entry's checksum, the chain, no gap, and that it reaches as far as its snapshots
  and its driver's lease say; every snapshot: its checksum, and that it is what replaying gives;
* every object that an event names and that no later event gave up: its hash, record and version;
  every file of every policy and of every checkpoint that was not retired; every image;
* the plan: each shard and each job has the key that the run's spec (`pipeline.run.queries`) derives
  for it at that point of the run, so nothing else was sampled or trained on;
* each shard: whole groups, seeds, sampling parameters and policy of every rollout, a grade for
  each; every selected row is a rollout of this shard, token for token, that was graded correct (of
  an unlabelled query: by its pseudo-label, which the votes give), and the selection is what the
  run's rule keeps of these grades and scores;
* a process reward model: completions continue the very prefixes that the plan derives from audited
  responses, each label is the share that its completions give, the verdict follows from labels and
  scores, and every score is of the run's PRM, of a response that was to be scored;
* figures and choices: every evaluation's figures, the warm-up that was chosen, every search for a
  temperature, a policy's dynamics, every iteration's row and the final policies are what the stored
  grades and the ledger before them give.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from pipeline.audit.decisions import undecided
from pipeline.audit.prm import Decoder, PrmAudit
from pipeline.audit.shard import RECORDS_OF, Found, Judge, ShardFiles, check_shard
from pipeline.errors import (
    BadConfig,
    CorruptObject,
    LedgerNewer,
    RunStopped,
    StoreError,
    StoreMissing,
)
from pipeline.generation.shards import ShardSpec
from pipeline.grading.grade import grader_version
from pipeline.phases.order import ready_steps
from pipeline.phases.prm import JUDGE
from pipeline.phases.steps import Annotate, JudgePrm, SampleShards, Train
from pipeline.refs import ShardSet
from pipeline.run.events.evaluation import Evaluated, EvaluationLost
from pipeline.run.events.event import Event
from pipeline.run.events.exploration import DynamicsEvaluated, TemperatureChosen
from pipeline.run.events.lifecycle import Finished, IterationClosed, RunCreated
from pipeline.run.events.prm import LabelsLost, LabelsMade, PrmJudged
from pipeline.run.events.sampling import (
    ObjectLost,
    OfShard,
    SamplingClosed,
    ShardAccepted,
    ShardGraded,
    ShardScored,
)
from pipeline.run.events.training import CheckpointSaved, JobDone, WarmupChosen
from pipeline.run.events.wire import from_wire
from pipeline.run.lease import last_tenure
from pipeline.run.ledger import GENESIS, Ledger, LedgerEntry, unseal
from pipeline.run.queries import spec_of
from pipeline.run.references import named, shard_stage
from pipeline.run.spec import RunSpec
from pipeline.run.state import State
from pipeline.selection.pseudo_labels import Voting
from pipeline.selection.rules import Rule
from pipeline.stages.score import Scoring
from pipeline.storage.artifacts import get_verified
from pipeline.storage.parquet import read_table
from pipeline.storage.store import Store
from pipeline.storage.trees import check_tree

PARALLEL = 8

ReadyStep = TypeVar("ReadyStep", Annotate, JudgePrm, SampleShards, Train)


@dataclass(frozen=True)
class Problem:
    """One thing that is not as it should be; `path` names the object."""

    path: str
    what: str

    def __str__(self) -> str:
        return f"{self.path}: {self.what}"


@dataclass
class Report:
    """What an audit found.

    objects: how many were read and hashed, trees counted as one. notes: what is no fault of the run
    (an older grader made its grades).
    """

    run: str
    entries: int = 0
    events: int = 0
    objects: int = 0
    finished: bool = False
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Nothing is wrong."""
        return not self.problems


@dataclass(frozen=True)
class _Asked:
    """What is done with the shards of a set besides sampling and grading them."""

    rule: Rule | None = None
    scoring: Scoring | None = None
    vote: Voting | None = None


def audit(
    store: Store, run: str, decoder: Decoder | None = None, grader: str | None = None
) -> Report:
    """Check a run. decoder: what turns a policy's tokens into text; a run with a process reward
    model cannot be checked without. grader: this program's (by default, with the
    shapes that the run reads); a run of another one is held against
    its own grades, and noted.

    Raises:
        BadConfig: the store holds no run of this name.
        StoreError: the store itself cannot be read.
    """
    return _Audit(store, run, decoder, grader).report


class _Audit:
    def __init__(self, store: Store, run: str, decoder: Decoder | None, grader: str | None) -> None:
        self.store = store
        self.grader = grader
        self.decoder = decoder
        self.ledger = Ledger(store, run)
        self.report = Report(run)
        self.state = State()
        self.run_spec: RunSpec | None = None
        self.prm: PrmAudit | None = None
        self.specs: dict[tuple[ShardSet, int], ShardSpec] = {}
        # what is to be selected and scored, by purpose and stage
        self.choices: dict[tuple[ShardSet, str], _Asked] = {}
        # what must be there, and the entry that names it
        self.needed: dict[str, int] = {}
        self.of_rounds: set[str] = set()
        self.shards: dict[tuple[ShardSet, int], ShardFiles] = {}
        self.replays = True
        snapshots = self.ledger.snapshot_numbers()  # before the entries: a driver may be writing
        self._read(snapshots)
        self._objects()
        self.report.finished = self.state.finished is not None

    def _bad(self, path: str, what: str) -> None:
        problem = Problem(path, what)
        if problem not in self.report.problems:
            self.report.problems.append(problem)

    def _all_bad(self, problems: Iterable[Found]) -> None:
        for path, what in problems:
            self._bad(path, what)

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
        self.replays = False

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
        elif self.replays and State.from_dict(content["state"]) != self.state:
            self._bad(path, "it is not the state that replaying the ledger gives")

    # --- events ---------------------------------------------------------------------------------

    def _event(self, n: int, wire: Mapping[str, Any]) -> None:
        try:
            event = from_wire(wire)
        except LedgerNewer as error:
            self._broken(n, str(error))
            return
        for path in event.drops():
            self.needed.pop(path, None)
        if event.drops():
            self._forget(event)
        else:
            self.needed.update(dict.fromkeys(named(wire), n))
            if ShardSet(wire.get("purpose", "")).is_round:
                self.of_rounds.update(named(wire))
        if self.replays:
            try:
                self._follow(n, event)
                self.state.apply(event)
            except (CorruptObject, StoreMissing, RunStopped, ValueError, KeyError) as error:
                self._broken(
                    n, f"its {event.type} event does not follow from those before: {error}"
                )

    def _forget(self, event: Event) -> None:
        """A lost object takes what was made from it along."""
        match event:
            case LabelsLost():
                self._forget_prm()
                self._forget_rounds()
            case EvaluationLost():
                self._forget_purpose(event.purpose)
            case ObjectLost():
                if event.purpose.of_prm:
                    self._forget_prm()
                self._forget_object(event)

    def _forget_object(self, event: ObjectLost) -> None:
        place = (event.purpose, event.index)
        files = self.shards.pop(place, None)
        if files is None:
            return
        kept: list[str] = []
        if files.accepted.rollout != event.path:
            scores = files.scored is not None and files.scored.scores == event.path
            left = replace(files, scored=None) if scores else ShardFiles(files.spec, files.accepted)
            self.shards[place], kept = left, left.paths
        for path in set(files.paths) - set(kept):
            self.needed.pop(path, None)

    def _forget_purpose(self, purpose: str) -> None:
        """Its shards are sampled or adopted anew, perhaps other objects."""
        for place in [place for place in self.shards if place[0] == purpose]:
            for path in self.shards.pop(place).paths:
                self.needed.pop(path, None)

    def _forget_rounds(self) -> None:
        """Completions are sampled or adopted anew; where they were lost, no event says so."""
        self.shards = {place: one for place, one in self.shards.items() if not place[0].is_round}
        for path in self.of_rounds:
            self.needed.pop(path, None)
        self.of_rounds.clear()

    def _forget_prm(self) -> None:
        """What was derived of the PRM is derived anew, of what is made again."""
        if self.prm is not None:
            self.prm.forget()
        self.specs = {place: spec for place, spec in self.specs.items() if not place[0].is_round}
        self.choices = {place: one for place, one in self.choices.items() if not place[0].of_prm}

    def _follow(self, n: int, event: Event) -> None:
        """The event is what the phases ask for at this point."""
        match event:
            case RunCreated():
                self.run_spec = spec_of(self.store, event)
                self.prm = PrmAudit(self.store, self.run_spec, self.decoder)
                self._images(self.run_spec)
                self._note_grader(self.run_spec.grader)
            case ShardAccepted():
                self._accepted(n, event)
            case ShardGraded():
                asked = self._choice(event.purpose, event.stage)
                self._add(event, graded=event, scored=None, **vars(asked))
            case ShardScored():
                asked = self._choice(event.purpose, event.stage)
                self._add(event, scored=event, **vars(asked))
            case SamplingClosed():
                self._closed(n, event)
            case CheckpointSaved() | JobDone():
                if all(step.job.key != event.key for step in self._ready(Train)):
                    what = f"job {event.job} did not train what the plan asks for"
                    self._bad(self.ledger.path(n), what)
            case Evaluated() | WarmupChosen() | IterationClosed() | Finished():
                self._decided(n, event)
            case TemperatureChosen() | DynamicsEvaluated():
                self._decided(n, event)
            case LabelsMade() if self.prm is not None:
                step = next(iter(self._ready(Annotate)), None)
                self._all_bad(self.prm.labels(self.state, step, event))
            case PrmJudged() if self.prm is not None:
                judging = next(iter(self._ready(JudgePrm)), None)
                self._all_bad(self.prm.verdict(self.state, judging, event))

    def _decided(self, n: int, event: Event) -> None:
        """Figures and choices follow from what led to them."""
        if self.run_spec is None:
            raise CorruptObject("the run has no beginning")
        ready = ready_steps(self.state, self.run_spec)
        for what in undecided(self.store, self.run_spec, self.state, ready, event):
            self._bad(self.ledger.path(n), what)

    def _note_grader(self, grader: str) -> None:
        assert self.run_spec is not None  # the caller noted whose grades these are
        own = self.grader or grader_version(self.run_spec.config.prompt.shapes)
        if grader != own:
            self.report.notes.append(
                f"graded by {grader}, and this program grades by {own}: its grades were "
                "checked as they are; it cannot be resumed with this program"
            )

    def _accepted(self, n: int, event: ShardAccepted) -> None:
        spec = self._spec(event)
        if spec is not None and spec.key == event.key:
            self.shards[event.purpose, event.index] = ShardFiles(spec, event)
        elif not (self.prm is not None and self.prm.lost and event.purpose.is_round):
            self._bad(self.ledger.path(n), f"accepts {event.rollout}, which no plan asks for")

    def _add(self, about: OfShard, **events: Any) -> None:
        place = (about.purpose, about.index)
        if place in self.shards:
            self.shards[place] = replace(self.shards[place], **events)

    def _ready(self, kind: type[ReadyStep]) -> list[ReadyStep]:
        """The steps of a kind that may run at this point."""
        if self.run_spec is None:
            raise CorruptObject("the run has no beginning")
        ready = ready_steps(self.state, self.run_spec)
        return [step for step in ready if isinstance(step, kind)]

    def _closed(self, n: int, event: SamplingClosed) -> None:
        """Nothing that the plan asks for was left out, and the sums are those of its shards."""
        purpose, path = event.purpose, self.ledger.path(n)
        if not any(name == purpose for name, _ in self.specs):
            self._plan(purpose)
        planned = {index for name, index in self.specs if name == purpose}
        shards = self.state.shards.get(purpose, {})
        if replace(event, stage="", at=0.0) != SamplingClosed.of(purpose, shards):
            self._bad(path, f"closes {purpose} with other sums than those of its shards")
        if not planned and self.prm is not None and self.prm.lost and purpose.is_round:
            return
        scored = self._choice(purpose, event.stage).scoring is not None
        done = {i for i, one in shards.items() if one.done and (one.scores or not scored)}
        if done != planned:
            left = ", ".join(map(str, sorted(planned - done))) or "none"
            self._bad(path, f"closes {purpose}, and of its shards these are not done: {left}")

    def _plan(self, purpose: ShardSet) -> None:
        """Fix the plan of a set of shards, where the phases ask for it at this point."""
        specs = [spec for step in self._ready(SampleShards) for spec in step.specs]
        if purpose.is_round and purpose.number is not None and self.prm is not None:
            for step in self._ready(Annotate):
                specs += self.prm.round(self.state, step, purpose.number)
        self.specs |= {(ShardSet(spec.purpose), spec.index): spec for spec in specs}

    def _spec(self, event: OfShard) -> ShardSpec | None:
        """The shard that the plan has there. A purpose's plan is fixed when it is first used."""
        place = (event.purpose, event.index)
        if place not in self.specs:
            self._plan(event.purpose)
        return self.specs.get(place)

    def _choice(self, purpose: ShardSet, stage: str) -> _Asked:
        """What is to be selected of a purpose's shards, and scored for it or for the gate."""
        place = (purpose, stage)
        if place not in self.choices:
            if stage == JUDGE and self.prm is not None:  # also of shards that are made again
                self.choices[place] = _Asked(scoring=self.prm.scoring(self.state))
            for step in self._ready(SampleShards):
                if step.purpose == purpose and place not in self.choices:
                    self.choices[place] = _Asked(step.rule, step.scoring, step.vote)
        return self.choices.get(place, _Asked())

    # --- objects --------------------------------------------------------------------------------

    def _images(self, run_spec: RunSpec) -> None:
        shas = {sha for part in run_spec.splits.values() for query in part for sha in query.images}
        self._each(sorted(shas), self._image)

    def _image(self, sha: str) -> list[Found]:
        path = f"images/{sha}"
        try:
            get_verified(self.store, path, quarantine=False)
        except (StoreMissing, CorruptObject) as error:
            return [(path, str(error))]
        return []

    def _objects(self) -> None:
        """Everything that is needed, shards with their links, each object read once."""
        in_shards = {path for files in self.shards.values() for path in files.paths}
        if self.run_spec is not None:
            self._each(list(self.shards.values()), partial(self._shard, self._judge(self.run_spec)))
        rest = [path for path in self.needed if path not in in_shards]
        self._each(rest, self._object)
        self.report.objects += len(in_shards & self.needed.keys()) - len(self.shards)

    def _each(self, items: list[Any], check: Any) -> None:
        with ThreadPoolExecutor(PARALLEL) as pool:
            for problems in pool.map(check, items):
                self.report.objects += 1
                self._all_bad(problems)

    def _judge(self, run_spec: RunSpec) -> Judge:
        """Text is needed of completions and of scored responses only."""
        texts = any(place[0].is_round or one.scored for place, one in self.shards.items())
        decode = self.prm.decode(self.state) if texts and self.prm is not None else None
        return Judge(self.store, run_spec, decode)

    def _shard(self, judge: Judge, files: ShardFiles) -> list[Found]:
        """A shard that was lost and not made again is not needed."""
        if not self.needed.keys() & set(files.paths):
            return []
        return check_shard(judge, files)

    def _object(self, path: str) -> list[Found]:
        if not shard_stage(path):
            return [(path, line) for line in check_tree(self.store, path)]
        try:
            data = get_verified(self.store, path, quarantine=False)
            record = RECORDS_OF.get(str(shard_stage(path)))
            if record is not None:
                read_table(data, record)
        except StoreError as error:
            return [(path, str(error))]
        return []
