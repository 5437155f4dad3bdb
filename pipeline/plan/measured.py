"""What a run has sampled, trained and stored so far: the measurement that a plan is made from.

A pure function of the run's events, the sizes of its objects and the prompt lengths of one shard of
each kind. `to_dict` is plain JSON, small enough to be kept: `mstar-ray plan out/RUN --json FILE`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from pipeline.refs import PRM_VALUES, ShardSet

KindName = Literal["warmup", "question", "greedy", "completion"]
"""Kinds of shards whose responses are alike: gold-conditioned chains, samples of a question, greedy
answers, completions of a step."""

FILES = ("rollout", "grade", "score", "select")


def kind_of(purpose: str) -> KindName:
    """The kind of the shards of a set."""
    if purpose in ("warmup", "control"):
        return "warmup"
    if ShardSet(purpose).phase == PRM_VALUES:
        return "completion"
    return "greedy" if purpose.endswith("/greedy") else "question"


def plain_stage(stage: str) -> str:
    """A stage without its iteration: `evolve/3/learn` is `evolve/learn`."""
    return "/".join(part for part in stage.split("/") if not part.isdigit())


@dataclass(frozen=True)
class SetSums:
    """A closed set of shards. bytes: of its objects by kind of file; correct: distinct correct
    responses; kept: selected ones; queries: groups of samples; score_s: seconds of scorers."""

    purpose: str
    stage: str
    shards: int
    queries: int
    samples: int
    tokens: int
    correct: int
    kept: int
    bytes: Mapping[str, int]
    score_s: float = 0.0

    @property
    def kind(self) -> KindName:
        """Which kind of responses it holds."""
        return kind_of(self.purpose)


@dataclass(frozen=True)
class JobSums:
    """A learning job that is done; tokens: of responses (for a PRM: steps)."""

    stage: str
    job: str
    steps: int
    rows: int
    tokens: int


@dataclass(frozen=True)
class MeasuredRun:
    """Sums of a run.

    sizes: labelled queries by split. prompt_tokens: mean of a shard, by kind. labels: counts and
    cost of the PRM's labels. stage_s: seconds by stage. stored: bytes of all objects by first
    folder; images, events: how many.
    """

    run: str
    config: Mapping[str, Any]
    sizes: Mapping[str, int]
    sets: tuple[SetSums, ...]
    jobs: tuple[JobSums, ...]
    labels: Mapping[str, Any] | None
    stage_s: Mapping[str, float]
    prompt_tokens: Mapping[str, float] = field(default_factory=dict)
    stored: Mapping[str, int] = field(default_factory=dict)
    images: int = 0
    events: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON form."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> MeasuredRun:
        """What `to_dict` described."""
        sets = tuple(SetSums(**one) for one in plain["sets"])
        jobs = tuple(JobSums(**one) for one in plain["jobs"])
        return cls(**{**plain, "sets": sets, "jobs": jobs})

    def samples_by_stage(self) -> dict[str, tuple[int, int]]:
        """Samples and sampled tokens of each stage."""
        found: dict[str, tuple[int, int]] = {}
        for one in self.sets:
            samples, tokens = found.get(one.stage, (0, 0))
            found[one.stage] = (samples + one.samples, tokens + one.tokens)
        return found


def set_sums(events: Iterable[Mapping[str, Any]], sizes: Mapping[str, int]) -> list[SetSums]:
    """The closed sets of shards in the events of a ledger, in order; one that is closed again (for
    its scores) takes the bytes of all.

    sizes: bytes of stored objects by path.
    """
    shards: dict[str, int] = defaultdict(int)
    score_s: dict[str, float] = defaultdict(float)
    weight: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(FILES, 0))
    found: dict[str, SetSums] = {}
    for event in events:
        purpose = event.get("purpose", "")
        if event["type"] == "shard_accepted":
            shards[purpose] += 1
            weight[purpose]["rollout"] += sizes.get(event["rollout"], 0)
        elif event["type"] in ("shard_graded", "shard_scored"):
            for name, key in (("grade", "grades"), ("score", "scores"), ("select", "selected")):
                weight[purpose][name] += sizes.get(event.get(key) or "", 0)
            score_s[purpose] += event["seconds"] if event["type"] == "shard_scored" else 0.0
        elif event["type"] == "sampling_closed":
            counts = event["coverage"]
            first = found.get(purpose)
            found[purpose] = SetSums(
                purpose=purpose,
                stage=first.stage if first else plain_stage(event["stage"]),
                shards=shards[purpose],
                queries=counts["queries"],
                samples=event["rows"],
                tokens=event["tokens"],
                correct=counts["candidates"],
                kept=counts["kept"],
                bytes=dict(weight[purpose]),
                score_s=round(score_s[purpose], 3),
            )
    return list(found.values())


def job_sums(events: Iterable[Mapping[str, Any]]) -> list[JobSums]:
    """The learning jobs that the events of a ledger say are done."""
    return [
        JobSums(plain_stage(one["stage"]), one["job"], one["steps"], one["rows"], one["tokens"])
        for one in events
        if one["type"] == "job_done"
    ]


def stored_bytes(sizes: Mapping[str, int]) -> dict[str, int]:
    """Bytes of a store's objects by first folder."""
    found: dict[str, int] = defaultdict(int)
    for path, size in sizes.items():
        found[path.partition("/")[0]] += size
    return dict(found)


def first_of_kind(sets: Sequence[SetSums]) -> dict[KindName, SetSums]:
    """The first set of each kind that a trained policy sampled, or else of any."""
    found: dict[KindName, SetSums] = {}
    for one in sorted(sets, key=lambda sums: sums.stage == "base/evaluate"):
        found.setdefault(one.kind, one)
    return found
