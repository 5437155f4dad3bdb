"""Evaluation: from the graded (and scored) shards of a split to the figures of a policy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from pipeline.errors import ArtifactLost
from pipeline.metrics.accuracy import image_groups
from pipeline.metrics.evaluation import measure_greedy, measure_sampled
from pipeline.metrics.intervals import as_json, bootstrap_by_group
from pipeline.metrics.votes import reward_pass
from pipeline.query import Query
from pipeline.records import Grade, Rollout, Score
from pipeline.run.spec import RunSpec
from pipeline.run.state import GREEDY, ShardState
from pipeline.selection.coverage import Coverage
from pipeline.stages.grade import with_grades
from pipeline.stages.score import rewards_by_sample
from pipeline.stages.select import place_of
from pipeline.stages.tasks import StageTask, TaskContext
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
class EvaluateTask(StageTask):
    """The figures of a policy on a split.

    mode: `GREEDY` or `SAMPLED`. shards: in plan order. coverage: sums of their counts.
    """

    split: str
    mode: str
    shards: tuple[StoredShard, ...]
    coverage: Mapping[str, int]

    @classmethod
    def of(cls, split: str, mode: str, shards: Mapping[int, ShardState]) -> EvaluateTask:
        """From the run's state: the shards of the evaluation by index."""
        ordered = [shard for _, shard in sorted(shards.items())]
        coverage = sum((Coverage(**shard.coverage) for shard in ordered), Coverage())
        return cls(split, mode, tuple(map(StoredShard.of, ordered)), coverage.to_dict())

    def run(self, context: TaskContext) -> dict[str, Any]:
        """What the `evaluated` event holds as its result.

        Raises:
            ArtifactLost: an object is corrupt or gone.
        """
        return figures(self, context.spec, partial(read_rows, context.store))


Read = Callable[[str, type[Any]], list[Any]]
"""Rows of a stored object, by path and record."""


def figures(task: EvaluateTask, spec: RunSpec, read: Read) -> dict[str, Any]:
    """The figures of a policy on a split, from stored rows: what a run records and its audit
    derives again."""
    queries_Q = spec.splits[task.split]
    grades = [row for one in task.shards for row in read(one.grades, Grade)]
    if task.mode == GREEDY:
        found = measure_greedy(queries_Q, grades, task.coverage)
    else:
        counted = spec.config.run.rules == 1  # whatever the length limit did
        rows = [] if counted else [row for one in task.shards for row in read(one.rollout, Rollout)]
        truncated = {place_of(row) for row in rows if row.finish != "stop"}
        samples = spec.samples(task.split)
        found = measure_sampled(queries_Q, grades, task.coverage, samples, truncated)
    return found | reward_pass_2(spec, queries_Q, task.shards, read)


@dataclass(frozen=True)
class CheckGradesTask(StageTask):
    """Which grades of evaluations can no longer be read.

    paths: the grades of each evaluation, by the name that the answer calls it.
    """

    paths: Mapping[str, tuple[str, ...]]

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
    spec: RunSpec, queries: Sequence[Query], shards: Sequence[StoredShard], read: Read
) -> dict[str, Any]:
    """Reward-Pass@2 (paper section 5) of an evaluation whose samples were all scored, as sampled
    and of distinct responses (paper section 7, trap 12); empty where they were not."""
    hits: dict[str, tuple[bool, bool]] = {}
    without = 0
    for shard in shards:
        if shard.scores is None:
            return {}
        rows, grades = with_grades(read(shard.rollout, Rollout), read(shard.grades, Grade))
        rewards = rewards_by_sample(rows, read(shard.scores, Score))
        without += sum(reward is None for reward in rewards.values())
        ended_K = [row.finish == "stop" or spec.config.run.rules == 1 for row in rows]
        correct_K = [
            ended and grade.outcome == "correct"
            for ended, grade in zip(ended_K, grades, strict=True)
        ]
        hits |= _reward_hits(rows, correct_K, rewards)
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
    correct: Sequence[bool],
    rewards: Mapping[tuple[str, int], float | None],
) -> dict[str, tuple[bool, bool]]:
    """By query, whether one of its two best samples by reward is correct: as sampled, and of
    distinct responses."""
    hits: dict[str, tuple[bool, bool]] = {}
    groups: dict[str, list[tuple[bool, float | None, str]]] = {}
    for row, is_correct in zip(rows, correct, strict=True):
        reward = rewards[row.query, row.sample_index]
        groups.setdefault(row.query, []).append((is_correct, reward, row.text))
    for name, group in groups.items():
        correct_K, rewards_K, texts_K = zip(*group, strict=True)
        hits[name] = (
            reward_pass(correct_K, rewards_K),
            reward_pass(correct_K, rewards_K, texts_K=texts_K),
        )
    return hits
