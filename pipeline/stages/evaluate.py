"""Evaluation: from the graded (and scored) shards of a split to the figures of a policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.errors import ArtifactLost
from pipeline.hashing import key_of
from pipeline.metrics.accuracy import image_groups
from pipeline.metrics.evaluation import measure_greedy, measure_sampled
from pipeline.metrics.intervals import as_json, bootstrap_by_group
from pipeline.metrics.votes import reward_pass
from pipeline.query import Query
from pipeline.records import Grade, Rollout, Score
from pipeline.run.state import GREEDY, ShardState
from pipeline.stages.grade import graded_rows
from pipeline.stages.score import rewards_by_sample
from pipeline.stages.tasks import TaskContext
from pipeline.storage.artifacts import read_rows
from pipeline.storage.store import Store


@dataclass(frozen=True)
class StoredShard:
    """Where the parts of a graded shard lie; scores: None where nothing was scored."""

    rollout: str
    grades: str
    scores: str | None = None

    @classmethod
    def of(cls, shard: ShardState) -> StoredShard:
        """The parts of a shard of the run's state, which must be graded."""
        assert shard.grades is not None
        return cls(shard.rollout, shard.grades, shard.scores)


@dataclass(frozen=True)
class EvaluateTask:
    """The figures of a policy on a split.

    mode: `GREEDY` or `SAMPLED`. shards: in plan order. coverage: sums of their counts.
    """

    split: str
    mode: str
    shards: tuple[StoredShard, ...]
    coverage: Mapping[str, int]

    @property
    def key(self) -> str:
        """Identity: the shards, and how they are summed up."""
        return key_of("evaluate", asdict(self))

    def run(self, context: TaskContext) -> dict[str, Any]:
        """What the `evaluated` event holds as its result.

        Raises:
            ArtifactLost: an object is corrupt or gone.
        """
        store, queries_Q = context.store, context.spec.splits[self.split]
        grades = [row for one in self.shards for row in read_rows(store, one.grades, Grade)]
        if self.mode == GREEDY:
            figures = measure_greedy(queries_Q, grades, self.coverage)
        else:
            samples = context.spec.samples(self.split)
            figures = measure_sampled(queries_Q, grades, self.coverage, samples)
        return figures | reward_pass_2(store, queries_Q, self.shards)


@dataclass(frozen=True)
class CheckGradesTask:
    """Which grades of evaluations can no longer be read.

    paths: the grades of each evaluation, by the name that the answer calls it.
    """

    paths: Mapping[str, tuple[str, ...]]

    @property
    def key(self) -> str:
        """Identity: what is checked. (A task that is done again may find something else.)"""
        return key_of("check-grades", dict(self.paths))

    def run(self, context: TaskContext) -> dict[str, tuple[str, str]]:
        """Path and reason of the first object of an evaluation that is corrupt or gone."""
        return unreadable(context.store, self.paths)


def unreadable(store: Store, paths: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, str]]:
    """By name, path and reason of the first of its grades that is corrupt or gone."""
    problems: dict[str, tuple[str, str]] = {}
    for name, grades in paths.items():
        try:
            for path in grades:
                read_rows(store, path, Grade)
        except ArtifactLost as lost:
            problems[name] = (lost.path, lost.reason)
    return problems


def reward_pass_2(
    store: Store, queries: Sequence[Query], shards: Sequence[StoredShard]
) -> dict[str, Any]:
    """Reward-Pass@2 (paper section 5) of an evaluation whose samples were all scored, as sampled
    and of distinct responses (paper section 7, trap 12); empty where they were not.

    Raises:
        ArtifactLost: an object is corrupt or gone.
    """
    hits: dict[str, tuple[bool, bool]] = {}
    without = 0
    for shard in shards:
        if shard.scores is None:
            return {}
        rows, grades = graded_rows(store, shard.rollout, shard.grades)
        rewards = rewards_by_sample(rows, read_rows(store, shard.scores, Score))
        without += sum(reward is None for reward in rewards.values())
        hits |= _reward_hits(rows, grades, rewards)
    scored = [query for query in queries if query.content_hash in hits]
    if not scored:
        return {}
    images = image_groups(scored)
    names = ("reward_pass_2", "reward_pass_2_distinct")
    figures: dict[str, Any] = {
        name: bootstrap_by_group(
            [hits[query.content_hash][place] for query in scored],
            images,
            seed=0,
            bounds=(0.0, 1.0),
        )
        for place, name in enumerate(names)
    }
    return {**as_json(figures), "without_score": without}


def _reward_hits(
    rows: Sequence[Rollout],
    grades: Sequence[Grade],
    rewards: Mapping[tuple[str, int], float | None],
) -> dict[str, tuple[bool, bool]]:
    """By query, whether one of its two best samples by reward is correct: as sampled, and of
    distinct responses."""
    hits: dict[str, tuple[bool, bool]] = {}
    groups: dict[str, list[tuple[bool, float | None, str]]] = {}
    for row, grade in zip(rows, grades, strict=True):
        reward = rewards[row.query, row.sample_index]
        groups.setdefault(row.query, []).append((grade.outcome == "correct", reward, row.text))
    for name, group in groups.items():
        correct_K, rewards_K, texts_K = zip(*group, strict=True)
        hits[name] = (
            reward_pass(correct_K, rewards_K),
            reward_pass(correct_K, rewards_K, texts_K=texts_K),
        )
    return hits
