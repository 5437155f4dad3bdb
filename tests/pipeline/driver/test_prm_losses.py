"""What comes out otherwise when it is made again is never mixed with what was made of the old."""

from __future__ import annotations

import pytest

from pipeline.audit.run import audit
from pipeline.config.schema import Config
from pipeline.records import StepValues
from pipeline.run.events.event import Event
from pipeline.run.events.sampling import SamplingClosed
from pipeline.run.events.training import JobDone
from pipeline.run.state import State
from pipeline.simulation.fleet import decode
from pipeline.storage.artifacts import read_rows
from tests.support.driving import Bench
from tests.support.scripted import Crash, prm_config


@pytest.fixture(scope="module")
def config() -> Config:
    return prm_config()


def goes_on_otherwise(bench: Bench) -> State:
    """The next driver, whose engines give other responses for the process reward model."""
    bench.context()
    bench.fleet.drifts = "prm/"
    return bench.drive()


@pytest.mark.parametrize(
    ("purpose", "moment"),
    [
        ("prm/rollouts", "prm/values/1"),
        ("prm/values/0", "prm/values/1"),
        ("prm/rollouts", "prm/0"),
    ],
)
def test_what_came_out_otherwise_is_never_mixed_with_what_was_made_of_the_old(
    bench: Bench, purpose: str, moment: str
) -> None:
    """An engine that is not deterministic, and a shard that is lost after others were made of it.

    The audit derives every label and every prefix again, so it is clean only where all belongs
    together.
    """
    lost: list[str] = []

    def lose(event: Event) -> None:
        closed = isinstance(event, SamplingClosed) and event.purpose == moment
        if (closed or (isinstance(event, JobDone) and event.job == moment)) and not lost:
            shards = bench.current.state.shards[purpose].values()
            lost.extend(shard.rollout for shard in shards)
            for path in [*lost, *(shard.grades for shard in shards if shard.grades)]:
                bench.store.delete(path)
            raise Crash

    bench.watch.react = lose
    with pytest.raises(Crash):
        bench.drive()
    assert lost
    state = goes_on_otherwise(bench)
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


def test_a_prm_that_is_trained_again_is_judged_by_its_own_scores(bench: Bench) -> None:
    """Labels and completions are lost when every response is scored, and come out otherwise."""
    lost: list[str] = []

    def lose(event: Event) -> None:
        shards = bench.current.state.shards.get("prm/rollouts", {}).values()
        if lost or not shards or not all(shard.scores for shard in shards):
            return
        for wire in bench.events:
            if str(wire.get("purpose", "")).startswith("prm/values/"):
                lost.extend(path for path in (wire.get("rollout"), wire.get("grades")) if path)
        assert bench.current.state.labels is not None
        lost.append(bench.current.state.labels["path"])
        for path in set(lost):
            bench.store.delete(path)
        raise Crash

    bench.watch.react = lose
    with pytest.raises(Crash):
        bench.drive()
    before = {task.rollout for task, _ in bench.scorer.asked}
    state = goes_on_otherwise(bench)
    keys = [event["key"] for event in bench.of_type("job_done") if event["job"] == "prm/0"]
    assert len(set(keys)) == 2
    again = [task for task, _ in bench.scorer.asked if task.rollout in before]
    assert {task.rollout for task in again} == before
    assert {task.scoring.prm.version for task in again} == {state.policies["prm/0"].version}
    (judged,) = bench.of_type("prm_judged")
    assert state.labels is not None
    assert judged["card"]["responses"] == state.labels["held_out"]
    assert audit(bench.store, bench.config.run.name, lambda policy: decode).problems == []
