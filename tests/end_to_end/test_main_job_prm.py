"""The main job with a process reward model: labelled, trained, judged and used for real."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from actors.model.value_head import LIKELIHOOD_KEY, read_head
from pipeline.records import Score, Selected
from pipeline.storage.artifacts import read_rows
from pipeline.storage.trees import fetch_tree
from tests.support.main_job import LIMIT_S, PRM, MainJob

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MainJob]:
    job = MainJob(tmp_path_factory.mktemp("tiny"), PRM)
    try:
        job.finish()
        yield job
    finally:
        job.kill()


@pytest.mark.timeout(LIMIT_S)
def test_a_prm_is_built_judged_and_used(
    job: MainJob, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (verdict,) = [event for event in job.events if event["type"] == "prm_judged"]
    assert verdict["used"]
    assert verdict["card"]["responses"] > 0
    folder = tmp_path_factory.mktemp("prm") / "prm"
    fetch_tree(job.store, verdict["path"], folder)
    assert read_head(folder).abs().max() > 0
    assert json.loads((folder / "config.json").read_text())[LIKELIHOOD_KEY] != 0


def test_what_is_trained_on_has_the_highest_rewards(job: MainJob) -> None:
    dropped = 0
    for event in job.events:
        if event["type"] != "shard_scored" or event["purpose"] != "evolve/0":
            continue
        rewards: dict[str, dict[int, float]] = {}
        for row in read_rows(job.store, event["scores"], Score):
            rewards.setdefault(row.query, {})[row.sample_index] = row.reward_p
        kept: dict[str, list[float]] = {}
        for chosen in read_rows(job.store, event["selected"], Selected):
            reward = rewards[chosen.query].pop(chosen.sample_index)
            kept.setdefault(chosen.query, []).append(reward)
        assert kept.keys() == rewards.keys()
        for query, found in kept.items():
            dropped += len(rewards[query])
            assert len(found) == 2 or not rewards[query]
            assert min(found) >= max(rewards[query].values(), default=0.0)
    assert dropped
