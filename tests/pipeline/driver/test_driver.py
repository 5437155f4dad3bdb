"""The driver over a scripted world: the order of a run, what it remembers, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.driver.driver import drive
from pipeline.errors import BadConfig
from pipeline.hashing import canonical_json
from pipeline.records import Rollout
from pipeline.refs import CheckpointRef
from pipeline.reports.summary import summary
from pipeline.reports.tables import difference_lines
from pipeline.run.events.wire import from_wire, replay
from pipeline.run.state import State
from pipeline.storage.artifacts import read_rows
from pipeline.training.job import LearnJob
from tests.support.driving import Bench, result
from tests.support.scripted import Crash, make_config, make_program


def test_a_run_goes_through_every_stage_in_order(plain: Bench) -> None:
    kinds = [
        (event["type"], event.get("name") or event.get("job") or event.get("purpose"))
        for event in plain.events
        if event["type"] in ("policy_published", "job_done", "warmup_chosen", "iteration_closed")
    ]
    names = [name for kind, name in kinds if kind == "job_done"]
    assert kinds[0] == ("policy_published", "base")
    assert names[0] == "warmup/0"
    assert [n for n in names if n and n.startswith("evolve")] == [
        "evolve/0",
        "evolve/1",
        "evolve/2",
    ]
    assert [n for n in names if n and n.startswith("control")] == [
        "control/0",
        "control/1",
        "control/2",
    ]
    assert plain.events[-1]["type"] == "finished"


def test_control_and_evolution_see_the_same_labelled_queries(plain: Bench) -> None:
    def asked(purposes: str) -> set[str]:
        return {
            row.query
            for event in plain.of_type("shard_accepted")
            if event["purpose"].startswith(purposes)
            for row in read_rows(plain.store, event["rollout"], Rollout)
        }

    evolved, control = asked("evolve/"), asked("control")
    assert len(asked("warmup")) == 6, "the warm-up sees fewer"
    assert control == evolved | asked("warmup")
    assert len(control) == 12
    state = replay(plain.events)
    found = summary(state, plain.program, plain.store)
    assert found["labelled_queries"] == {"warmup": 6, "control": 12, "final": 12}
    (line, *_) = difference_lines(found)
    assert line == "labelled queries seen: warmup 6, control 12, final 12"
    # Every shard of chains that the warm-up has is found in the store, and is sampled once.
    adopted = [e for e in plain.of_type("shard_accepted") if e["purpose"] == "control"]
    assert sum(event["adopted"] for event in adopted) == 3


def test_the_test_split_is_only_measured_at_the_four_points(plain: Bench) -> None:
    state = replay(plain.events)
    assert state.finished is not None
    named = {
        state.policies[name].version
        for name in ("base", "warmup", state.finished["final"], state.finished["control"])
    }
    measured = {e["version"] for e in plain.of_type("evaluated") if e["split"] == "test"}
    assert measured == named
    chosen_at = next(i for i, e in enumerate(plain.events) if e["type"] == "warmup_chosen")
    tests_before = [
        e["version"]
        for e in plain.events[:chosen_at]
        if e["type"] == "evaluated" and e["split"] == "test"
    ]
    assert set(tests_before) == {state.policies["base"].version}


def test_moments_are_inherited_and_the_control_is_as_long(plain: Bench) -> None:
    state = replay(plain.events)
    jobs = {event["job"]: event for event in plain.of_type("job_done")}
    for chain in ("evolve", "control"):
        steps = 0
        for t in range(3):
            steps += jobs[f"{chain}/{t}"]["steps"]
            assert jobs[f"{chain}/{t}"]["checkpoint"]["step"] == steps
    assert all(jobs[f"control/{t}"]["steps"] == jobs[f"evolve/{t}"]["steps"] for t in range(3))
    assert state.policies["warmup"] != state.policies["base"]


def test_a_falling_rate_of_the_warmup_ends_with_its_epochs(tmp_path: Path) -> None:
    bench = Bench(tmp_path, make_config(warmup={"schedule": "linear", "flat_evaluations": 9}))
    jobs: dict[str, LearnJob] = {}
    submit = bench.learner.submit

    def note(job: LearnJob, resume: CheckpointRef | None) -> None:
        jobs[job.name] = job
        submit(job, resume)

    bench.learner.submit = note  # type: ignore[method-assign]
    state = bench.drive()
    rounds = [name for name in jobs if name.startswith("warmup/")]
    assert len(rounds) == 3
    steps = sum(state.jobs[name].steps for name in rounds)
    assert {jobs[name].schedule_steps for name in rounds} == {steps}
    assert {jobs[name].schedule for name in rounds} == {"linear"}
    assert jobs["evolve/0"].schedule == "constant"


def test_replay_and_snapshot_give_the_drivers_state(plain: Bench) -> None:
    state = replay(plain.events)
    again = State.from_dict(json.loads(canonical_json(state.to_dict())))
    assert again == state
    for cut in range(0, len(plain.events), 7):
        before = replay(plain.events[:cut])
        resumed = State.from_dict(json.loads(canonical_json(before.to_dict())))
        for event in plain.events[cut:]:
            resumed.apply(from_wire(event))
        assert resumed == state


def test_a_finished_run_started_again_does_nothing(plain: Bench) -> None:
    before = dict(plain.backend._objects)
    plain.run()
    assert plain.backend._objects == before
    assert plain.fleet.generated == []


def test_dispatch_is_in_plan_order_and_bounded(plain: Bench, bench: Bench) -> None:
    context = bench.context(seed=5)
    seen: list[tuple[str, int, int]] = []
    original = context.workers.fleet.submit

    def submit(spec: Any, policy: Any) -> None:
        done = {i for i, s in context.state.shards.get(spec.purpose, {}).items() if s.done}
        first = next(i for i in range(10**6) if i not in done)
        seen.append((spec.purpose, spec.index, first))
        original(spec, policy)

    context.workers.fleet.submit = submit  # type: ignore[method-assign]
    drive(context)
    assert all(index < first + 3 for _, index, first in seen)
    for purpose in {purpose for purpose, _, _ in seen}:
        order = [index for name, index, _ in seen if name == purpose]
        assert order == sorted(order)
    assert result(bench) == result(plain)


@pytest.mark.parametrize("seed", range(6))
def test_order_and_duplicates_change_nothing(plain: Bench, bench: Bench, seed: int) -> None:
    bench.run(seed=seed + 1, twice=0.5)
    assert result(bench) == result(plain)
    assert len(bench.fleet.generated) == len(set(bench.fleet.generated))


def test_another_run_in_the_same_store_adopts_everything(plain: Bench, bench: Bench) -> None:
    bench.run()
    run = bench.config.run.model_copy(update={"name": "another"})
    bench.program = make_program(bench.config.model_copy(update={"run": run}))
    bench.run()
    assert bench.fleet.generated == []
    assert result(bench) == result(plain)


def test_another_seed_is_another_run(plain: Bench, tmp_path: Path) -> None:
    bench = Bench(tmp_path, make_config(run={"name": "scripted", "seed": 1}))
    bench.run()
    assert result(bench)["policies"]["evolve/2"] != result(plain)["policies"]["evolve/2"]
    assert result(bench)["selected"] != result(plain)["selected"]


def test_an_iteration_that_selects_nothing_trains_nothing(tmp_path: Path) -> None:
    """The base answers nothing without the gold answer and training does not help."""
    bench = Bench(tmp_path, make_config(warmup={"checkpoint": "x"}, evolve={"control": False}))
    folder = Path(bench.config.policy.path)
    (folder / "model.json").write_text(json.dumps({"skill": 0.0, "trained": "nothing"}))
    warmup = bench.config.warmup.model_copy(update={"checkpoint": str(folder)})
    bench.config = bench.config.model_copy(update={"warmup": warmup})
    bench.program = make_program(bench.config)
    state = bench.run()
    assert [event["job"] for event in bench.of_type("job_skipped")] == [
        "evolve/0",
        "evolve/1",
        "evolve/2",
    ]
    assert state.policies["evolve/2"] == state.policies["base"]
    assert state.iterations[0]["kept"] == 0
    assert any("nothing was selected" in line for line in bench.watch.said)


def test_old_checkpoints_go_and_the_one_to_continue_from_stays(plain: Bench) -> None:
    state = replay(plain.events)
    held = {path.split("/")[2][:64] for path in plain.backend._objects if "checkpoints/" in path}
    kept = {job.checkpoint.path[-64:] for job in state.jobs.values() if job.checkpoint}
    assert {name.split(".")[0] for name in held} == kept
    assert len(kept) <= 2
    retired = [path for event in plain.of_type("retired") for path in event["paths"]]
    assert len(retired) == len(set(retired))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"generate": {"temperature": 0.7}}, "generate.temperature: 1.0 -> 0.7"),
        ({"run": {"seed": 4}}, "run.seed: 0 -> 4"),
        ({"evolve": {"iterations": 5}}, "evolve.iterations"),
    ],
)
def test_a_changed_config_is_refused_on_resume(
    tmp_path: Path, changes: dict[str, dict[str, Any]], words: str
) -> None:
    bench = Bench(tmp_path)
    bench.backend.at = 60
    with pytest.raises(Crash):
        bench.run()
    other = Bench(tmp_path, make_config(**changes))
    other.backend = bench.backend
    with pytest.raises(BadConfig) as caught:
        other.run()
    assert words in str(caught.value)
    assert other.fleet.generated == []


def test_free_and_noted_changes_go_on(plain: Bench, tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.backend.at = 60
    with pytest.raises(Crash):
        bench.run()
    other = Bench(
        tmp_path, make_config(generate={"lookahead": 7}, learn={"micro_batch": 1, "attempts": 2})
    )
    other.backend = bench.backend
    other.backend.at = -1
    other.run()
    assert result(other) == result(plain)
    said = [line for line in other.watch.said if "changed since" in line]
    assert len(said) == 1
    assert "learn.micro_batch" in said[0]
    started = next(e for e in other.events if e["type"] == "driver_started")
    assert len(started["changes"]) == 1


def test_other_data_under_the_same_config_are_refused(bench: Bench) -> None:
    bench.backend.at = 60
    with pytest.raises(Crash):
        bench.run()
    splits = dict(bench.program.splits)
    splits["test"] = splits["test"][:-1]
    object.__setattr__(bench.program, "splits", splits)
    bench.program.__dict__.pop("fingerprint")
    with pytest.raises(BadConfig, match="questions or answers of the data"):
        bench.run()


def test_the_summary_compares_and_times_every_policy(plain: Bench) -> None:
    state = replay(plain.events)
    found = summary(state, plain.program, plain.store)
    for name in ("base", "warmup", "control", "final"):
        assert {"greedy", "n", "ci95", "families"} <= set(found[name]["test"])
    assert set(found["comparisons"]) == {"final - warmup", "final - control", "warmup - base"}
    one = found["comparisons"]["final - warmup"]["test"]
    expected = found["final"]["test"]["greedy"] - found["warmup"]["test"]["greedy"]
    assert one["diff"] == pytest.approx(expected)
    assert len(found["iterations"]) == 3
    assert found["wall_s"] == pytest.approx(sum(found["stage_s"].values()))
    assert "evolve/generate" in found["stage_s"]
