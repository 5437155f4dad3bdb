"""Temperatures searched for and dynamics evaluated in a run over scripted workers.

What is chosen is what is sampled at, what is asked for twice is sampled once, and no crash or loss
changes anything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.audit.run import audit
from pipeline.config.schema import Config
from pipeline.driver.driver import drive
from pipeline.metrics.accuracy import image_groups
from pipeline.metrics.intervals import bootstrap_by_group
from pipeline.phases.order import ready_steps
from pipeline.phases.steps import SampleShards, Step, Train
from pipeline.run.events.event import Event
from pipeline.run.events.sampling import SamplingClosed
from pipeline.run.events.wire import from_wire, replay
from pipeline.run.ledger import Ledger
from pipeline.run.state import State
from pipeline.simulation.fleet import decode
from pipeline.storage.backend import MemoryBackend
from pipeline.storage.store import Store
from tests.support.driving import Bench, result
from tests.support.scripted import Crash, make_config, prm_config

EXPLORE = {"every": 2, "grid": [0.6, 1.3], "samples": 4, "by": "pass_at_k", "mode": "argmax"}
DYNAMICS = {"every": 1, "grid": [0.6, 1.0], "samples": 4}
BEST = 0.6


@pytest.fixture(scope="module")
def config() -> Config:
    return make_config(
        explore=EXPLORE,
        dynamics=DYNAMICS,
        evaluate={"samples": 0, "shard_queries": 3},
        evolve={"iterations": 3, "interval": 1 / 3, "control": False},
    )


def drive_best(bench: Bench, seed: int = 0, twice: float = 0.0) -> State:
    """A driver's life where samples at `BEST` are correct most often."""
    context = bench.context(seed, twice)
    bench.fleet.best = BEST
    return drive(context)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, config: Config) -> Bench:
    bench = Bench(tmp_path_factory.mktemp("plain"), config)
    drive_best(bench)
    return bench


def test_iterations_are_sampled_at_what_was_chosen(plain: Bench) -> None:
    chosen = plain.of_type("temperature_chosen")
    assert [(one["iteration"], one["today"], one["temperature"]) for one in chosen] == [
        (0, 1.0, BEST),
        (2, BEST, BEST),
    ]
    assert set(chosen[0]["curve"]) == {"0.6", "1", "1.3"}, "today's is always compared"
    state = replay(plain.events)
    assert [row["temperature"] for row in state.iterations] == [BEST] * 3
    asked = set()
    for step in steps_of(plain):
        if isinstance(step, SampleShards) and step.purpose.startswith("evolve/"):
            asked |= {spec.sampling.temperature for spec in step.specs}
        if isinstance(step, Train) and step.job.check_logprobs:
            asked.add(step.job.temperature)
    assert asked == {BEST}


def steps_of(bench: Bench) -> list[Step]:
    """Every step that was ready at some point of a run."""
    state, found = State(), []
    for wire in bench.events:
        found += [step for step in ready_steps(state, bench.program) if step not in found]
        state.apply(from_wire(wire))
    return found


def test_nothing_is_sampled_twice(plain: Bench) -> None:
    keys = Counter(plain.fleet.generated)
    assert set(keys.values()) == {1}
    of_search = [e for e in plain.of_type("shard_accepted") if e["purpose"].startswith("explore/")]
    # Twice three temperatures; dynamics after the iterations between, and greedy ones found again.
    temperatures = Counter(e["purpose"].rpartition("/")[2] for e in of_search if not e["adopted"])
    shards = 2  # of five questions
    assert temperatures == {"T0.6-K4": 4 * shards, "T1-K4": 4 * shards, "T1.3-K4": 2 * shards}


def test_dynamics_are_of_every_policy_and_in_the_state(plain: Bench) -> None:
    state = replay(plain.events)
    assert [one["iteration"] for one in state.dynamics] == [0, 1, 2, 3]
    for one in state.dynamics:
        assert set(one["rows"]) == {"0.6", "1"}
        assert one["ranked_by"] is None
        for row in one["rows"].values():
            assert set(row["pass_at"]) == {"1", "2", "4"}
            assert "reward_pass_at" not in row
    assert not any(purpose.startswith("explore/") for purpose in state.shards)
    assert State.from_dict(state.to_dict()) == state


def test_the_curve_is_the_mean_of_what_was_sampled(plain: Bench) -> None:
    (first, _) = plain.of_type("temperature_chosen")
    queries = plain.program.splits["validation"]
    for one in first["curve"].values():
        hits = [1.0] * round(one["value"] * 5) + [0.0] * round(5 - one["value"] * 5)
        again = bootstrap_by_group(hits, image_groups(list(queries)), seed=0, reps=50)
        assert again.value == pytest.approx(one["value"])


def test_the_audit_derives_it_again(plain: Bench) -> None:
    assert audit(plain.store, "scripted").problems == []


def test_a_lie_about_a_temperature_is_found(plain: Bench) -> None:
    lies: list[Callable[[dict[str, Any]], None]] = [
        lambda e: e.update(temperature=1.3),
        lambda e: e["curve"]["1.3"].update(value=0.99),
    ]
    for lie in lies:
        events = [dict(event) for event in plain.events]
        told = next(e for e in events if e["type"] == "temperature_chosen")
        told["curve"] = {t: dict(one) for t, one in told["curve"].items()}
        lie(told)
        store = rewritten_store(plain, events)
        problems = audit(store, "scripted").problems
        assert any("the temperature chosen before iteration 0" in str(one) for one in problems)


def rewritten_store(bench: Bench, events: list[dict[str, Any]]) -> Store:
    """A copy of a run's store whose ledger tells these events in one entry."""
    store = Store(MemoryBackend(), say=lambda line: None)
    for path in bench.store.list():
        if not path.startswith("runs/"):
            store.put(path, bench.store.get(path))
    Ledger(store, "scripted").append(events)
    return store


def test_a_driver_that_dies_at_a_write_goes_on(
    plain: Bench, tmp_path: Path, config: Config
) -> None:
    """At writes all over the run, where `AnythingHappens` tries every one."""
    for at in range(60, plain.backend.writes, plain.backend.writes // 6):
        bench = Bench(tmp_path / str(at), config)
        bench.backend.at, bench.backend.after = at, bool(at % 2)
        with pytest.raises(Crash):
            drive_best(bench, seed=at, twice=0.3)
        bench.backend.at = -1
        drive_best(bench, seed=at + 1, twice=0.3)
        assert result(bench) == result(plain), f"died at write {at}"


@pytest.mark.parametrize(
    ("kind", "field"), [("shard_accepted", "rollout"), ("shard_graded", "grades")]
)
def test_samples_lost_before_the_decision_are_made_again(
    plain: Bench, tmp_path: Path, config: Config, kind: str, field: str
) -> None:
    bench = Bench(tmp_path, config)
    lost: list[str] = []

    def lose(event: Event) -> None:
        if isinstance(event, SamplingClosed) and "T1.3" in event.purpose and not lost:
            made = [one for one in bench.of_type(kind) if one["purpose"] == event.purpose]
            lost.append(made[0][field])
            bench.backend.delete(lost[0])

    bench.watch.react = lose
    drive_best(bench)
    assert lost
    assert [one["path"] for one in bench.of_type("object_lost")] == lost
    assert result(bench) == result(plain)
    assert audit(bench.store, "scripted").problems == []


def test_a_policy_that_stays_is_searched_again(tmp_path: Path) -> None:
    """Nothing is kept, so nothing is trained: the second search finds its samples in the store."""
    config = make_config(
        explore=EXPLORE | {"every": 1},
        evolve={"iterations": 2, "interval": 1 / 3, "control": False},
        select={"rule": "random_k", "k": 2},
    )
    bench = Bench(tmp_path, config)
    context = bench.context()
    bench.fleet.best = 9.0  # no sample is correct
    drive(context)
    assert len(bench.of_type("job_skipped")) == 2
    assert [one["iteration"] for one in bench.of_type("temperature_chosen")] == [0, 1]
    assert set(Counter(bench.fleet.generated).values()) == {1}


def test_with_a_prm_samples_are_scored_and_training_shards_as_far_as_needed(tmp_path: Path) -> None:
    plain = prm_config()
    changes = {
        "explore": EXPLORE | {"by": "reward_pass_2", "mode": "argmax"},
        "dynamics": DYNAMICS | {"every": 3},
    }
    config = plain.model_validate(plain.model_dump() | changes)
    bench = Bench(tmp_path, config)
    bench.run()
    (first, *_) = bench.of_type("temperature_chosen")
    assert (first["figure"], first["ranked_by"]) == ("reward_pass_2", "prm")
    (row,) = (one["rows"]["1"] for one in bench.of_type("dynamics_evaluated")[:1])
    assert set(row["reward_pass_at"]["2"]) == {"sampled", "distinct"}
    which = {
        task.scoring.which
        for task, rows in bench.scorer.asked
        if task.rule is not None and rows  # of training shards
    }
    assert which == {"right"}
    assert audit(bench.store, "scripted", lambda policy: decode).problems == []
