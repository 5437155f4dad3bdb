"""Exploration: from graded (and scored) samples at several temperatures to a decision, or to a row
of figures for each.

What always holds: every temperature is compared on the same questions, those that have samples at
all of them; what a run records and what its audit and a replay derive again comes from one
function.

Axes: Q questions, K samples of a question.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from pipeline.config.schema import DecideBy, SearchedBy
from pipeline.config.selecting import RankedBy
from pipeline.generation.temperature import Decision, decide
from pipeline.metrics.accuracy import image_groups
from pipeline.metrics.dynamics import Samples, dynamics_row, reward_hits
from pipeline.query import Query
from pipeline.records import Grade, Rollout, Score
from pipeline.run.spec import RunSpec
from pipeline.run.state import ShardState
from pipeline.selection.answer_classes import answer_classes
from pipeline.selection.rules import own_score
from pipeline.stages.evaluate import Read, StoredShard
from pipeline.stages.grade import with_grades
from pipeline.stages.score import rewards_by_sample
from pipeline.stages.select import Place
from pipeline.stages.tasks import StageTask, TaskContext
from pipeline.storage.artifacts import read_rows


@dataclass(frozen=True)
class AtTemperature:
    """The stored shards of one temperature, in plan order; 0: greedy answers."""

    temperature: float
    shards: tuple[StoredShard, ...]

    @classmethod
    def of(cls, temperature: float, shards: Mapping[int, ShardState]) -> AtTemperature:
        """From the run's state: shards by index."""
        ordered = [shard for _, shard in sorted(shards.items())]
        return cls(temperature, tuple(map(StoredShard.of, ordered)))


@dataclass(frozen=True)
class Ranked:
    """A response as Reward-Pass@k sees it. ended: it was not truncated."""

    row: Rollout
    grade: Grade
    reward: float | None

    @property
    def ended(self) -> bool:
        return self.row.finish == "stop"

    @property
    def correct(self) -> bool:
        """Graded correct and not truncated."""
        return self.ended and self.grade.outcome == "correct"


def responses(
    one: AtTemperature, ranked_by: RankedBy | None, read: Read
) -> dict[str, list[Ranked]]:
    """The responses of one temperature by query, each group by sample index.

    ranked_by: what gives them their reward; None: nothing does.
    """
    found: dict[str, list[Ranked]] = {}
    for shard in one.shards:
        rows, grades = with_grades(read(shard.rollout, Rollout), read(shard.grades, Grade))
        rewards = _rewards(shard, rows, ranked_by, read)
        for row, grade in zip(rows, grades, strict=True):
            reward = rewards.get((row.query, row.sample_index))
            found.setdefault(row.query, []).append(Ranked(row, grade, reward))
    return {
        query: sorted(group, key=lambda one: one.row.sample_index) for query, group in found.items()
    }


def _rewards(
    shard: StoredShard, rows: Sequence[Rollout], ranked_by: RankedBy | None, read: Read
) -> Mapping[Place, float | None]:
    if ranked_by is None:
        return {}
    if ranked_by == "prm":
        if shard.scores is None:
            raise ValueError(f"{shard.rollout} was not scored, and Reward-Pass@k needs scores")
        return rewards_by_sample(rows, read(shard.scores, Score))
    return {(row.query, row.sample_index): own_score(row, ranked_by) for row in rows}


def samples_of(
    group_K: Sequence[Ranked], query: Query, *, greedy: bool, ranked: bool, classes: bool
) -> Samples:
    """One question's samples at a temperature. ranked: whether they have rewards; classes: whether
    it matters which of their answers are equal."""
    # What was truncated, or not graded in time, has no answer.
    answers_K = [
        one.grade.extracted if one.ended and one.grade.outcome != "timeout" else None
        for one in group_K
    ]
    return Samples(
        greedy=greedy,
        correct_K=tuple(one.correct for one in group_K),
        texts_K=tuple(one.row.text for one in group_K),
        classes_K=tuple(answer_classes(answers_K, query) if classes else (None for _ in group_K)),
        tokens_K=tuple(len(one.row.token_ids) for one in group_K),
        nats_K=tuple(math.fsum(one.row.logprobs) for one in group_K),
        rewards_K=tuple(one.reward for one in group_K) if ranked else None,
    )


def asked_in_all(groups: Sequence[Mapping[str, Any]], spec: RunSpec) -> list[Query]:
    """The validation questions that have responses at every temperature, in the split's order."""
    validation = spec.splits[spec.config.data.validation]
    return [query for query in validation if all(query.content_hash in one for one in groups)]


# --- a search ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SearchTask(StageTask):
    """Which temperature is better than today's. figure: what is to be maximal; ranked_by: what
    Reward-Pass@2 ranks by; samples: K, of each question the first so many."""

    figure: SearchedBy
    mode: DecideBy
    ranked_by: RankedBy | None
    samples: int
    today: float
    seed: int
    sampled: tuple[AtTemperature, ...]

    def run(self, context: TaskContext) -> Decision:
        """The decision with its whole curve.

        Raises:
            ArtifactLost: an object is corrupt or gone.
        """
        return decision(self, context.spec, partial(read_rows, context.store))


def decision(task: SearchTask, spec: RunSpec, read: Read) -> Decision:
    """Which temperature is chosen from stored rows."""
    found = [responses(one, task.ranked_by, read) for one in task.sampled]
    asked_Q = asked_in_all(found, spec)
    ranked = task.figure == "reward_pass_2"
    hits: dict[float, list[float]] = {}
    for one, groups in zip(task.sampled, found, strict=True):
        samples_Q = [
            samples_of(
                groups[query.content_hash][: task.samples],
                query,
                greedy=False,
                ranked=ranked,
                classes=False,
            )
            for query in asked_Q
        ]
        hits[one.temperature] = (
            reward_hits(samples_Q, 2) if ranked else [float(any(s.correct_K)) for s in samples_Q]
        )
    return decide(hits, image_groups(asked_Q), task.today, task.mode, seed=task.seed)


# --- dynamics ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DynamicsTask(StageTask):
    """The rows of a policy's dynamics, one for each temperature. greedy: its greedy answers."""

    ranked_by: RankedBy | None
    greedy: AtTemperature
    sampled: tuple[AtTemperature, ...]

    def run(self, context: TaskContext) -> dict[str, dict[str, Any]]:
        """`dynamics_row` by temperature.

        Raises:
            ArtifactLost: an object is corrupt or gone.
        """
        return dynamics_rows(self, context.spec, partial(read_rows, context.store))


def dynamics_rows(task: DynamicsTask, spec: RunSpec, read: Read) -> dict[str, dict[str, Any]]:
    """`dynamics_row` by temperature, from stored rows."""
    answers = responses(task.greedy, None, read)
    found = [responses(one, task.ranked_by, read) for one in task.sampled]
    asked_Q = asked_in_all([answers, *found], spec)
    groups_Q = image_groups(asked_Q)
    return {
        f"{one.temperature:g}": dynamics_row(
            [
                samples_of(
                    groups[query.content_hash],
                    query,
                    greedy=answers[query.content_hash][0].correct,
                    ranked=task.ranked_by is not None,
                    classes=True,
                )
                for query in asked_Q
            ],
            groups_Q,
        )
        for one, groups in zip(task.sampled, found, strict=True)
    }
