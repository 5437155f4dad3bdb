"""What a run has done, as a fold over its ledger: replaying the events gives the whole state.

`State.apply` is the only thing that changes a state. It takes events in ledger order, is
deterministic, reads no clock and no store. What is only needed while a stage is open is dropped
when the stage closes, so the state of a long run stays small: the ledger keeps the rest.

Events (`type` and fields; `stage` and `at`, seconds since the driver that wrote it started, are on
every one):

    run_created       config, config_hash, data, queries, versions
    driver_started    versions, changes
    policy_published  name, version, path
    shard_accepted    purpose, index, key, rollout, rows, tokens, seconds, engine, adopted, bad
    shard_graded      purpose, index, key, grades, selected, coverage, seconds, bad, choice
    object_lost       purpose, index, path, reason
    shard_scored      purpose, index, key, scores, selected, coverage, excluded, choice, seconds
    sampling_closed   purpose, coverage, rows, tokens
    labels_made       path, trained, held_out, counts, cost
    labels_lost       path, reason
    prm_judged        version, path, used, reasons, card
    evaluated         version, split, mode, purpose, grades, result
    evaluation_lost   version, split, mode, purpose, path, reason
    checkpoint_saved  job, key, checkpoint
    checkpoint_lost   job, path, reason
    job_done          job, key, checkpoint, policy, steps, rows, tokens, loss, seconds,
                      logprob_deviation
    job_skipped       job, policy
    warmup_chosen     name
    iteration_closed  iteration, row
    retired           paths
    finished          final, control
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.refs import CheckpointRef, PolicyRef
from pipeline.selection.coverage import Coverage

Event = Mapping[str, Any]

GREEDY, SAMPLED = "greedy", "sampled"


@dataclass
class ShardState:
    """How far one shard of an open purpose has come: accepted, then graded (and selected from).

    bad: queries without rows. (Those whose answers could not be graded have rows, but no grades.)
    """

    key: str
    rollout: str
    rows: int
    tokens: int
    bad: tuple[str, ...] = ()
    adopted: bool = False
    grades: str | None = None
    selected: str | None = None
    coverage: dict[str, int] = field(default_factory=dict)
    scores: str | None = None
    choice: dict[str, Any] = field(default_factory=dict)

    @property
    def done(self) -> bool:
        """Nothing is left to do for it."""
        return self.grades is not None


@dataclass
class JobState:
    """One learning job: its last checkpoint inside, then what it gave."""

    key: str = ""
    checkpoint: CheckpointRef | None = None
    policy: PolicyRef | None = None
    steps: int = 0
    done: bool = False
    report: dict[str, Any] = field(default_factory=dict)


@dataclass
class State:
    """Everything the driver needs to know what comes next."""

    config: dict[str, Any] | None = None
    config_hash: str = ""
    data: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    policies: dict[str, PolicyRef] = field(default_factory=dict)
    shards: dict[str, dict[int, ShardState]] = field(default_factory=dict)
    closed: dict[str, dict[str, Any]] = field(default_factory=dict)
    evaluations: dict[str, dict[str, Any]] = field(default_factory=dict)
    jobs: dict[str, JobState] = field(default_factory=dict)
    warmup: str | None = None
    labels: dict[str, Any] | None = None
    prm: dict[str, Any] | None = None
    iterations: list[dict[str, Any]] = field(default_factory=list)
    bad_queries: dict[str, str] = field(default_factory=dict)
    retired: list[str] = field(default_factory=list)
    stage_s: dict[str, float] = field(default_factory=dict)
    finished: dict[str, Any] | None = None
    last_at: float = 0.0

    def apply(self, event: Event) -> None:
        """Fold one event in.

        Raises:
            ValueError: an event of an unknown type: the ledger is newer than this program.
        """
        kind = event["type"]
        if kind not in _FOLDS:
            raise ValueError(f"the ledger holds an event of type {kind!r}, unknown to this version")
        at, stage = float(event.get("at", 0.0)), str(event.get("stage", ""))
        if kind in ("run_created", "driver_started"):
            self.last_at = 0.0  # each driver counts from its own start
        if stage:
            self.stage_s[stage] = self.stage_s.get(stage, 0.0) + max(0.0, at - self.last_at)
            self.last_at = at
        _FOLDS[kind](self, event)

    @classmethod
    def replay(cls, events: Iterable[Event]) -> State:
        """The state after these events."""
        state = cls()
        for event in events:
            state.apply(event)
        return state

    # -- questions ------------------------------------------------------------------------------

    def evaluation(self, policy: PolicyRef, split: str, mode: str) -> dict[str, Any] | None:
        """The result of measuring a policy, by its content: two names of one policy share it."""
        return self.evaluations.get(_evaluation(policy.version, split, mode))

    def greedy(self, policy: PolicyRef, split: str) -> float:
        """Greedy accuracy, a share; it must have been measured."""
        result = self.evaluations[_evaluation(policy.version, split, GREEDY)]
        return float(result["greedy"])

    def job_done(self, name: str) -> bool:
        """Has this job given its policy?"""
        return name in self.jobs and self.jobs[name].done

    # -- a plain form, for snapshots ------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON form; `from_dict` gives the same state back."""
        return asdict(self) | {
            "shards": {
                purpose: [[index, asdict(shard)] for index, shard in sorted(shards.items())]
                for purpose, shards in self.shards.items()
            }
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> State:
        """The state that `to_dict` described."""
        state = cls(**dict(plain))
        state.policies = {name: PolicyRef(**ref) for name, ref in plain["policies"].items()}
        state.shards = {
            purpose: {index: _shard(shard) for index, shard in shards}
            for purpose, shards in plain["shards"].items()
        }
        state.jobs = {name: _job(job) for name, job in plain["jobs"].items()}
        return state


def _shard(plain: Mapping[str, Any]) -> ShardState:
    return ShardState(**{**plain, "bad": tuple(plain["bad"])})


def _job(plain: Mapping[str, Any]) -> JobState:
    checkpoint, policy = plain["checkpoint"], plain["policy"]
    return JobState(
        **{
            **plain,
            "checkpoint": CheckpointRef(**checkpoint) if checkpoint else None,
            "policy": PolicyRef(**policy) if policy else None,
        }
    )


def _evaluation(version: str, split: str, mode: str) -> str:
    return f"{version}|{split}|{mode}"


def closing(purpose: str, shards: Mapping[int, ShardState]) -> dict[str, Any]:
    """The event that closes a purpose: the sums of its shards, none of which is open any more."""
    total = sum((Coverage(**shard.coverage) for shard in shards.values()), Coverage())
    return {
        "type": "sampling_closed",
        "purpose": purpose,
        "coverage": total.to_dict(),
        "rows": sum(shard.rows for shard in shards.values()),
        "tokens": sum(shard.tokens for shard in shards.values() if not shard.adopted),
    }


# --- the folds ---------------------------------------------------------------------------------


def _run_created(state: State, event: Event) -> None:
    state.config = dict(event["config"])
    state.config_hash = event["config_hash"]
    state.data = dict(event["data"])
    state.versions = dict(event["versions"])


def _driver_started(state: State, event: Event) -> None:
    state.versions = dict(event["versions"])


def _policy_published(state: State, event: Event) -> None:
    state.policies[event["name"]] = PolicyRef(event["version"], event["path"])
    if event["name"] == "warmup":
        state.warmup = "warmup"


def _shard_accepted(state: State, event: Event) -> None:
    bad = {item["query"]: item["reason"] for item in event["bad"]}
    state.bad_queries.update(bad)
    state.shards.setdefault(event["purpose"], {})[event["index"]] = ShardState(
        event["key"],
        event["rollout"],
        event["rows"],
        event["tokens"],
        tuple(bad),
        event["adopted"],
    )


def _shard_graded(state: State, event: Event) -> None:
    shard = state.shards[event["purpose"]][event["index"]]
    state.bad_queries.update({item["query"]: item["reason"] for item in event["bad"]})
    shard.grades, shard.selected = event["grades"], event["selected"]
    shard.coverage = dict(event["coverage"])
    shard.choice = dict(event.get("choice", {}))


def _shard_scored(state: State, event: Event) -> None:
    shard = state.shards[event["purpose"]][event["index"]]
    shard.scores, shard.selected = event["scores"], event["selected"]
    shard.choice = {**event["choice"], "excluded": event["excluded"]}
    if event["coverage"] is not None:
        shard.coverage = dict(event["coverage"])


def _labels_made(state: State, event: Event) -> None:
    state.labels = {key: event[key] for key in ("path", "trained", "held_out", "counts", "cost")}
    for purpose in [name for name in state.shards if name.startswith("prm/values/")]:
        del state.shards[purpose]


def _labels_lost(state: State, event: Event) -> None:
    """Their completions are adopted from the store when they are made again."""
    state.labels = None
    for purpose in [name for name in state.closed if name.startswith("prm/values/")]:
        del state.closed[purpose]


def _prm_judged(state: State, event: Event) -> None:
    state.policies["prm"] = PolicyRef(event["version"], event["path"])
    state.prm = {key: event[key] for key in ("used", "reasons", "card")}
    state.shards.pop("prm/rollouts", None)


def _object_lost(state: State, event: Event) -> None:
    """Back to before the object: without its rollout a shard is gone, else only its grades are."""
    shards = state.shards.get(event["purpose"], {})
    shard = shards.get(event["index"])
    if shard is None:
        return
    if event["path"] == shard.rollout:
        del shards[event["index"]]
    elif event["path"] in (shard.grades, shard.selected):
        shard.grades = shard.selected = shard.scores = None
    elif event["path"] == shard.scores:
        shard.selected = shard.scores = None
    state.closed.pop(event["purpose"], None)


def _sampling_closed(state: State, event: Event) -> None:
    purpose = event["purpose"]
    state.closed[purpose] = {key: event[key] for key in ("coverage", "rows", "tokens")}


def _evaluated(state: State, event: Event) -> None:
    key = _evaluation(event["version"], event["split"], event["mode"])
    state.evaluations[key] = {**event["result"], "grades": list(event["grades"])}
    state.shards.pop(event["purpose"], None)


def _evaluation_lost(state: State, event: Event) -> None:
    """Back to before its shards, which are adopted from the store; no run is finished without."""
    state.evaluations.pop(_evaluation(event["version"], event["split"], event["mode"]), None)
    state.closed.pop(event["purpose"], None)
    state.finished = None


def _checkpoint_saved(state: State, event: Event) -> None:
    checkpoint = CheckpointRef(**event["checkpoint"])
    state.jobs[event["job"]] = JobState(event["key"], checkpoint)
    _in_use(state, checkpoint.path)


def _in_use(state: State, path: str) -> None:
    """A job that starts again from its beginning makes equal checkpoints again."""
    state.retired = [one for one in state.retired if one != path]


def _checkpoint_lost(state: State, event: Event) -> None:
    """Back to before the checkpoint: the job has none inside it any more."""
    job = state.jobs[event["job"]]
    if job.checkpoint is not None and job.checkpoint.path == event["path"]:
        job.checkpoint = None


def _job_done(state: State, event: Event) -> None:
    policy = PolicyRef(**event["policy"])
    keys = ("rows", "tokens", "loss", "seconds", "logprob_deviation")
    state.jobs[event["job"]] = JobState(
        key=event["key"],
        checkpoint=CheckpointRef(**event["checkpoint"]),
        policy=policy,
        steps=event["steps"],
        done=True,
        report={key: event[key] for key in keys},
    )
    state.policies[event["job"]] = policy
    _in_use(state, event["checkpoint"]["path"])
    if event["job"] == "prm/0":
        # Trained again, on labels that came out otherwise: what is scored is the other PRM's.
        for shard in state.shards.get("prm/rollouts", {}).values():
            shard.scores, shard.choice = None, {}


def _job_skipped(state: State, event: Event) -> None:
    policy = PolicyRef(**event["policy"])
    state.jobs[event["job"]] = JobState(policy=policy, done=True)
    state.policies[event["job"]] = policy


def _warmup_chosen(state: State, event: Event) -> None:
    state.warmup = event["name"]
    state.policies["warmup"] = state.policies[event["name"]]


def _iteration_closed(state: State, event: Event) -> None:
    state.iterations.append(dict(event["row"]))
    state.shards.pop(f"evolve/{event['iteration']}", None)


def _retired(state: State, event: Event) -> None:
    gone = set(event["paths"])
    state.retired = sorted(gone)
    for job in state.jobs.values():
        if job.checkpoint is not None and job.checkpoint.path in gone:
            job.checkpoint = None


def _finished(state: State, event: Event) -> None:
    state.finished = {"final": event["final"], "control": event["control"]}
    state.shards.clear()


_FOLDS: dict[str, Callable[[State, Event], None]] = {
    "run_created": _run_created,
    "driver_started": _driver_started,
    "policy_published": _policy_published,
    "shard_accepted": _shard_accepted,
    "shard_graded": _shard_graded,
    "shard_scored": _shard_scored,
    "labels_made": _labels_made,
    "labels_lost": _labels_lost,
    "prm_judged": _prm_judged,
    "object_lost": _object_lost,
    "sampling_closed": _sampling_closed,
    "evaluated": _evaluated,
    "evaluation_lost": _evaluation_lost,
    "checkpoint_saved": _checkpoint_saved,
    "checkpoint_lost": _checkpoint_lost,
    "job_done": _job_done,
    "job_skipped": _job_skipped,
    "warmup_chosen": _warmup_chosen,
    "iteration_closed": _iteration_closed,
    "retired": _retired,
    "finished": _finished,
}
