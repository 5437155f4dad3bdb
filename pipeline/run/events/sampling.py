"""Events of sampling: a shard generated, graded, scored, lost; a set of shards closed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.generation.fleet import ShardDone
from pipeline.refs import ShardSet
from pipeline.run.events.event import Event, LossEvent, Purpose
from pipeline.run.shard_answers import GradeDone, ScoreDone
from pipeline.run.state import ShardState, State
from pipeline.selection.coverage import Coverage
from pipeline.selection.pseudo_labels import label_counts


@dataclass(frozen=True)
class OfShard(Event):
    """What happened to one shard."""

    purpose: Purpose
    index: int


@dataclass(frozen=True)
class ShardAccepted(ShardDone, OfShard):
    """A rollout shard is complete in the store. bad: queries that have no rows in it."""

    type = "shard_accepted"
    COMPARED = ("rollout", "rows", "tokens", "bad")

    adopted: bool = field(kw_only=True)

    def fold(self, state: State) -> None:
        bad = {item.query: item.reason for item in self.bad}
        state.bad_queries.update(bad)
        state.shards.setdefault(self.purpose, {})[self.index] = ShardState(
            self.key, self.rollout, self.rows, self.tokens, tuple(bad), self.adopted
        )


@dataclass(frozen=True)
class ShardGraded(GradeDone, OfShard):
    """A shard has grades and, where its rule needs no scores, a selection."""

    type = "shard_graded"
    COMPARED = ("grades", "selected", "coverage", "bad", "choice", "classes", "truth", "votes")
    LATER = ("shapes", "classes", "truth", "votes")

    def fold(self, state: State) -> None:
        shard = state.shards[self.purpose][self.index]
        state.bad_queries.update({item.query: item.reason for item in self.bad})
        shard.grades, shard.selected = self.grades, self.selected
        shard.coverage, shard.choice = self.coverage.to_dict(), dict(self.choice)
        shard.shapes = dict(self.shapes)
        shard.classes, shard.truth, shard.votes = self.classes, dict(self.truth), dict(self.votes)


@dataclass(frozen=True)
class ShardScored(ScoreDone, OfShard):
    """A graded shard has scores and, where a rule chooses by them, a selection."""

    type = "shard_scored"
    COMPARED = ("scores", "selected", "coverage", "excluded", "choice", "votes")
    LATER = ("votes",)

    def fold(self, state: State) -> None:
        shard = state.shards[self.purpose][self.index]
        shard.scores, shard.selected = self.scores, self.selected
        shard.votes = dict(self.votes) or shard.votes
        shard.choice = {**self.choice, "excluded": dict(self.excluded)}
        if self.coverage is not None:
            shard.coverage = self.coverage.to_dict()


@dataclass(frozen=True)
class ObjectLost(LossEvent):
    """An object of an open shard is corrupt or gone: it is made again."""

    type = "object_lost"

    purpose: Purpose
    index: int

    def fold(self, state: State) -> None:
        """Back to before it: without its rollout a shard is gone, else only its grades are."""
        shards = state.shards.get(self.purpose, {})
        shard = shards.get(self.index)
        if shard is None:
            return
        if self.path == shard.rollout:
            del shards[self.index]
        elif self.path in (shard.grades, shard.classes, shard.selected):
            shard.grades = shard.selected = shard.scores = None
            shard.classes, shard.truth, shard.votes = "", {}, {}
        elif self.path == shard.scores:
            shard.selected = shard.scores = None
        state.closed.pop(self.purpose, None)


@dataclass(frozen=True)
class SamplingClosed(Event):
    """Every shard of a set is done; their sums. tokens: sampled by this run, not adopted; shapes:
    answers that were stated in another shape than ours, by shape; pseudo: of unlabelled queries,
    `label_counts`."""

    type = "sampling_closed"
    LATER = ("shapes", "pseudo")

    purpose: Purpose
    coverage: Coverage
    rows: int
    tokens: int
    shapes: dict[str, int] = field(default_factory=dict)
    pseudo: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, purpose: str, shards: Mapping[int, ShardState]) -> SamplingClosed:
        """The sums of the shards of a set, none of which is open any more."""
        return cls(
            ShardSet(purpose),
            sum((Coverage(**shard.coverage) for shard in shards.values()), Coverage()),
            sum(shard.rows for shard in shards.values()),
            sum(shard.tokens for shard in shards.values() if not shard.adopted),
            dict(sum((Counter(shard.shapes) for shard in shards.values()), Counter())),
            _pseudo([shard for shard in shards.values() if shard.classes]),
        )

    def fold(self, state: State) -> None:
        state.closed[self.purpose] = {
            "coverage": self.coverage.to_dict(),
            "rows": self.rows,
            "tokens": self.tokens,
            **({"pseudo": dict(self.pseudo)} if self.pseudo else {}),
        }


def _pseudo(shards: Sequence[ShardState]) -> dict[str, int]:
    """The sums of the shards of unlabelled queries; {} where there are none."""
    sums: dict[str, int] = {}
    for shard in shards:
        counts = label_counts(shard.coverage["queries"], shard.votes, shard.truth)
        sums = {name: sums.get(name, 0) + count for name, count in counts.items()}
    return sums
