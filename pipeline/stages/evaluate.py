"""What a process reward model says of an evaluation's samples: Reward-Pass@2 (paper section 5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.metrics.accuracy import image_groups
from pipeline.metrics.evaluation import measure_greedy, measure_sampled
from pipeline.metrics.intervals import as_json, bootstrap_by_group
from pipeline.metrics.votes import reward_pass
from pipeline.query import Query
from pipeline.records import Grade, Score
from pipeline.run.state import GREEDY, ShardState
from pipeline.stages.grade import graded_rows
from pipeline.stages.score import rewards_by_sample
from pipeline.storage.artifacts import read_rows
from pipeline.storage.store import Store


def reward_pass_2(
    store: Store, queries: Sequence[Query], shards: Sequence[ShardState]
) -> dict[str, Any]:
    """Reward-Pass@2 of an evaluation whose samples were all scored, as sampled and of distinct
    responses (paper section 7, trap 12); nothing where they were not.

    Raises:
        Lost: an object is corrupt or gone.
    """
    hits: dict[str, tuple[bool, bool]] = {}
    without = 0
    for shard in shards:
        if shard.scores is None or shard.grades is None:
            return {}
        rows, grades = graded_rows(store, shard.rollout, shard.grades)
        rewards = rewards_by_sample(rows, read_rows(store, shard.scores, Score))
        without += sum(reward is None for reward in rewards.values())
        groups: dict[str, list[tuple[bool, float | None, str]]] = {}
        for row, grade in zip(rows, grades, strict=True):
            reward = rewards[row.query, row.sample_index]
            groups.setdefault(row.query, []).append((grade.outcome == "correct", reward, row.text))
        for name, group in groups.items():
            right_K, rewards_K, texts_K = zip(*group, strict=True)
            hits[name] = (
                reward_pass(right_K, rewards_K),
                reward_pass(right_K, rewards_K, texts_K=texts_K),
            )
    there = [query for query in queries if query.content_hash in hits]
    if not there:
        return {}
    images = image_groups(there)
    named = ("reward_pass_2", "reward_pass_2_distinct")
    found: dict[str, Any] = {
        name: bootstrap_by_group(
            [hits[query.content_hash][place] for query in there], images, seed=0, bounds=(0.0, 1.0)
        )
        for place, name in enumerate(named)
    }
    return {**as_json(found), "without_score": without}


def measure(
    store: Store,
    paths: Sequence[str],
    queries_Q: Sequence[Query],
    *,
    mode: str,
    counts: Mapping[str, int],
    samples: int,
) -> dict[str, Any]:
    """The numbers of an evaluation from its grades.

    Raises:
        Lost: one of them is corrupt or gone.
    """
    rows: list[Grade] = []
    for path in paths:
        rows += read_rows(store, path, Grade)
    if mode == GREEDY:
        return measure_greedy(queries_Q, rows, counts)
    return measure_sampled(queries_Q, rows, counts, samples)
