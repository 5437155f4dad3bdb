"""What comes out otherwise when it is made again is never mixed with what was made of the old."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.audit.run import audit
from pipeline.driver.driver import Driver
from pipeline.generation.shards import ShardSpec
from pipeline.query import Query
from pipeline.records import Rollout, StepValues
from pipeline.storage.artifacts import read_rows
from tests.pipeline.driver.test_prm_driver import prm_config
from tests.support.scripted import Crash
from tests.support.scripted_prm import PrmBench, after_commits, decode


class Otherwise(PrmBench):
    """Once `otherwise` is set, what is made again of the PRM's shards comes out otherwise."""

    otherwise = False

    def driver(self, *args: Any, **kwargs: Any) -> Driver:
        driver = super().driver(*args, **kwargs)
        response = self.fleet._response  # type: ignore[attr-defined]

        def another(spec: ShardSpec, query: Query, index: int, seed: int, prefix: str) -> Rollout:
            shifted = self.otherwise and spec.purpose.startswith("prm/")
            made: Rollout = response(spec, query, index, seed + shifted, prefix)
            return replace(made, seed=seed)

        self.fleet._response = another  # type: ignore[attr-defined]
        return driver


@pytest.mark.parametrize(
    ("purpose", "moment"),
    [
        ("prm/rollouts", "prm/values/1"),
        ("prm/values/0", "prm/values/1"),
        ("prm/rollouts", "prm/0"),
    ],
)
def test_what_came_out_otherwise_is_never_mixed_with_what_was_made_of_the_old(
    tmp_path: Path, purpose: str, moment: str
) -> None:
    """An engine that is not deterministic, and a shard that is lost after others were made of it.

    The audit derives every label and every prefix again, so it is clean only where all belongs
    together.
    """
    bench = Otherwise(tmp_path, prm_config())
    driver = bench.driver()
    lost: list[str] = []

    def lose(stage: str, events: Sequence[Any]) -> None:
        ended = [event.get("job", event.get("purpose")) for event in events
                 if event["type"] in ("sampling_closed", "job_done")]  # fmt: skip
        if moment in ended and not lost:
            bench.otherwise = True
            shards = driver.state.shards[purpose].values()
            lost.extend(shard.rollout for shard in shards)
            for path in [*lost, *(shard.grades for shard in shards if shard.grades)]:
                bench.store.delete(path)
            raise Crash

    after_commits(driver, lose)
    with pytest.raises(Crash):
        driver.run()
    assert lost
    state = bench.driver().run()
    assert state.finished is not None
    assert any(event["path"] in lost for event in bench.of_type("object_lost"))
    report = audit(bench.store, bench.config.run.name, lambda policy: decode)
    assert report.problems == []
    assert bool(bench.of_type("labels_lost")) == (moment == "prm/0")
    assert state.labels is not None
    labels = read_rows(bench.store, state.labels["path"], StepValues)
    assert not {row.rollout_shard for row in labels} & set(lost)
    (judged,) = bench.of_type("prm_judged")
    assert judged["card"]["responses"] == sum(row.held_out for row in labels)
    trained = [event["key"] for event in bench.of_type("job_done") if event["job"] == "prm/0"]
    assert len(set(trained)) == 1 + (moment == "prm/0"), "it is trained on the labels that count"


def test_a_prm_that_is_trained_again_is_judged_by_its_own_scores(tmp_path: Path) -> None:
    """Labels and completions are lost when every response is scored, and come out otherwise."""
    bench = Otherwise(tmp_path, prm_config())
    driver = bench.driver()
    lost: list[str] = []

    def lose(stage: str, events: Sequence[Any]) -> None:
        shards = driver.state.shards.get("prm/rollouts", {}).values()
        if lost or not shards or not all(shard.scores for shard in shards):
            return
        bench.otherwise = True
        for event in bench.events:
            if str(event.get("purpose", "")).startswith("prm/values/"):
                lost.extend(path for path in (event.get("rollout"), event.get("grades")) if path)
        assert driver.state.labels is not None
        lost.append(driver.state.labels["path"])
        for path in set(lost):
            bench.store.delete(path)
        raise Crash

    after_commits(driver, lose)
    with pytest.raises(Crash):
        driver.run()
    before = {task.rollout for task, _ in bench.scorer.asked}
    state = bench.driver().run()
    keys = [event["key"] for event in bench.of_type("job_done") if event["job"] == "prm/0"]
    assert len(set(keys)) == 2
    again = [task for task, _ in bench.scorer.asked if task.rollout in before]
    assert {task.rollout for task in again} == before
    assert {task.scoring.prm.version for task in again} == {state.policies["prm/0"].version}
    (judged,) = bench.of_type("prm_judged")
    assert state.labels is not None
    assert judged["card"]["responses"] == state.labels["held_out"]
    assert audit(bench.store, bench.config.run.name, lambda policy: decode).problems == []
