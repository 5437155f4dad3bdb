"""Training methods over scripted workers: what each job begins with, by its weights and moments."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.audit.run import audit
from pipeline.config.learning import MethodName
from pipeline.driver.driver import drive
from pipeline.errors import BadConfig
from pipeline.phases.methods import METHODS, stops_because
from pipeline.refs import CheckpointRef, PolicyRef, ShardSet
from pipeline.reports.summary import summary
from pipeline.responses import extract_answer
from pipeline.run.events.wire import replay
from pipeline.run.state import State
from pipeline.simulation.learner import Training
from pipeline.simulation.small_trees import read_small_tree
from pipeline.training.job import LearnJob
from tests.support.driving import Bench
from tests.support.scripted import make_config


class Started:
    """What every job of a run began with, as the learner had it in memory, by job."""

    def __init__(self, bench: Bench) -> None:
        self.jobs: dict[str, LearnJob] = {}
        self.memory: dict[str, tuple[str, str, int]] = {}
        self.saved: dict[str, tuple[str, str]] = {}
        self.at: Training | None = None
        self.left: dict[str, str] = {}  # moments in memory when the next job came
        context = bench.context()
        learner, submit = bench.learner, bench.learner.submit

        def seen(job: LearnJob, resume: CheckpointRef | None) -> None:
            if self.jobs and self.at is not None:
                self.left[list(self.jobs)[-1]] = self.at.moments
            submit(job, resume)
            self.at = learner.work
            assert learner.work is not None
            self.jobs[job.name] = job
            self.memory[job.name] = (
                learner.work.trained, learner.work.moments, learner.work.step
            )  # fmt: skip

        class Seeing:
            submit = staticmethod(seen)
            poll = staticmethod(learner.poll)

        context.workers = replace(context.workers, learner=Seeing())
        self.state: State = drive(context)
        for event in bench.of_type("job_done"):
            path = event["checkpoint"]["path"]
            if bench.store.exists(f"{path}/state.json"):
                held = read_small_tree(bench.store, path, "state.json")
                self.saved[event["job"]] = (held["trained"], held["moments"])

    def ended(self, bench: Bench, job: str) -> str:
        """The weights that a job ended with."""
        (event,) = [event for event in bench.of_type("job_done") if event["job"] == job]
        model = read_small_tree(bench.store, event["policy"]["path"], "model.json")
        return str(model["trained"])


def run_of(folder: Path, method: str, **evolve: Any) -> tuple[Bench, Started]:
    interval = 1.0 if method in ("iterative_rft", "rest_em") else 1 / 3
    bench = Bench(
        folder,
        make_config(
            evolve={"method": method, "iterations": 3, "interval": interval, **evolve},
            learn={"schedule": "linear"},
        ),
    )
    return bench, Started(bench)


def test_continuous_goes_on_with_weights_moments_and_schedule(tmp_path: Path) -> None:
    bench, seen = run_of(tmp_path, "continuous")
    warmup = seen.state.warmup
    assert warmup is not None
    assert seen.memory["evolve/0"] == (seen.ended(bench, warmup), "zero", 0), "a new optimizer once"
    for t in (1, 2):
        trained, moments, step = seen.memory[f"evolve/{t}"]
        assert trained == seen.ended(bench, f"evolve/{t - 1}")
        assert moments != "zero"
        assert step == sum(seen.state.jobs[f"evolve/{e}"].steps for e in range(t))
        assert seen.jobs[f"evolve/{t}"].span == pytest.approx((t / 3, (t + 1) / 3))
    assert seen.memory["control/0"] == seen.memory["evolve/0"]
    assert seen.memory["control/1"][1] != "zero"


def test_iterative_rft_goes_on_with_the_weights_alone(tmp_path: Path) -> None:
    bench, seen = run_of(tmp_path, "iterative_rft")
    for t in (1, 2):
        assert seen.memory[f"evolve/{t}"] == (seen.ended(bench, f"evolve/{t - 1}"), "zero", 0)
        assert seen.jobs[f"evolve/{t}"].start is not None, "masters, not what is published"
        assert seen.jobs[f"evolve/{t}"].span == (0.0, 1.0)
        assert seen.jobs[f"evolve/{t}"].check_logprobs


def test_rest_em_begins_with_the_warm_up_each_time_on_what_the_last_policy_sampled(
    tmp_path: Path,
) -> None:
    bench, seen = run_of(tmp_path, "rest_em")
    state = seen.state
    assert state.warmup is not None
    for t in (0, 1, 2):
        job = seen.jobs[f"evolve/{t}"]
        assert seen.memory[f"evolve/{t}"] == (seen.ended(bench, state.warmup), "zero", 0)
        assert job.policy == state.policies[f"evolve/{t - 1}" if t else "warmup"]
        assert job.check_logprobs is (t == 0), "later the weights are not those that sampled"
        assert job.start == state.jobs[state.warmup].checkpoint, "it is kept for all iterations"


def test_sft_goes_on_with_the_warm_up_on_gold_answers_and_samples_nothing(tmp_path: Path) -> None:
    bench, seen = run_of(tmp_path, "sft")
    state = seen.state
    assert state.warmup is not None
    assert seen.memory["evolve/0"] == (seen.ended(bench, state.warmup), "zero", 0)
    for t in (1, 2):
        trained, moments, step = seen.memory[f"evolve/{t}"]
        assert trained == seen.ended(bench, f"evolve/{t - 1}")
        assert moments == seen.left[f"evolve/{t - 1}"], "the moments too, to the bit"
        assert step == sum(state.jobs[f"evolve/{e}"].steps for e in range(t))
        assert seen.jobs[f"evolve/{t}"].span == pytest.approx((t / 3, (t + 1) / 3))
    for t in (0, 1, 2):
        job = seen.jobs[f"evolve/{t}"]
        drawn = [bench.program.by_hash[one] for one in bench.program.slice(t)]
        assert job.data == ()
        assert not job.check_logprobs, "no engine sampled them"
        assert [name for name, _ in job.gold] == [query.content_hash for query in drawn]
        assert [extract_answer(text) for _, text in job.gold] == [query.answer for query in drawn]
        assert sorted(bench.learner.trained_rows[f"evolve/{t}"]) == sorted(
            f"{name}/gold/{text!r}" for name, text in job.gold
        )
    sampled = {ShardSet(event["purpose"]).phase for event in bench.of_type("sampling_closed")}
    assert "evolve" not in sampled
    assert all(row["kept"] == row["queries"] and not row["samples"] for row in state.iterations)


def test_sft_takes_as_many_steps_as_it_is_given(tmp_path: Path) -> None:
    bench, seen = run_of(tmp_path, "sft", steps=10)
    assert [row["steps"] for row in seen.state.iterations] == [3, 3, 4]
    assert len(bench.learner.trained_rows["evolve/2"]) == 4 * 4, "over several epochs"
    assert summary(seen.state, bench.program, bench.store)["evolution_ended"] is not None


def test_another_gold_answer_is_another_job() -> None:
    job = LearnJob("evolve/0", None, PolicyRef("p", f"policies/m/{'0' * 64}"), (), 0, 1, None, 1e-3)
    keys = {
        replace(job, rule=rule, gold=gold).key
        for rule in (0, 1)
        for gold in ((), (("q", "# Answer\n\n7"),), (("q", "# Answer\n\n8"),))
    }
    assert len(keys) == 6
    assert job.key == replace(job, gold=()).key


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"unlabelled": {"use": "oracle"}}, "trains on gold answers, which unlabelled queries do"),
        ({"explore": {"every": 1}, "evaluate": {"samples": 2}}, "no temperature is to be searched"),
        ({"select": {"reward": "prm"}}, "samples no responses, so a process reward model would be"),
    ],
)
def test_sft_refuses_what_it_has_no_use_for(sections: dict[str, Any], words: str) -> None:
    with pytest.raises(BadConfig, match=words):
        make_config(evolve={"method": "sft"}, **sections)


@pytest.mark.parametrize("method", METHODS)
def test_a_run_of_every_method_is_derived_again(method: MethodName, tmp_path: Path) -> None:
    bench, seen = run_of(tmp_path, method)
    assert seen.state.finished is not None
    assert audit(bench.store, "scripted").problems == []
    rates = [row["learning_rate"] for row in seen.state.iterations]
    assert all(rate > 0 for rate in rates)
    if METHODS[method].inherits:
        assert rates == sorted(rates, reverse=True)


def test_a_method_that_draws_all_refuses_a_part() -> None:
    with pytest.raises(BadConfig, match=r"evolve.method = rest_em draws the whole pool"):
        make_config(evolve={"method": "rest_em", "interval": 0.25})
    with pytest.raises(BadConfig, match=r"evolve.stop_saturated compares Pass@K"):
        make_config(evolve={"stop_saturated": True}, evaluate={"samples": 0})


def rows_of(greedy: list[float], passed: float = 0.9) -> State:
    at = {
        "1": {"value": 0.5, "ci95": [0.4, 0.6]},
        "8": {"value": passed, "ci95": [passed - 0.05, 1]},
    }
    state = State()
    state.iterations = [{"greedy": g, "steps": 4, "pass_at": at} for g in greedy]
    return state


@pytest.mark.parametrize(
    ("evolve", "greedy", "why"),
    [
        ({"iterations": 3}, [0.1, 0.2, 0.3], "evolve.iterations = 3 are done"),
        ({"iterations": 9, "steps": 12}, [0.1, 0.2, 0.3], "evolve.steps = 12 are done"),
        ({"iterations": 9, "steps": 13}, [0.1, 0.2, 0.3], None),
        ({"iterations": 9, "patience": 2}, [0.1, 0.3, 0.3, 0.2], "not risen for 2 iterations"),
        ({"iterations": 9, "patience": 2}, [0.1, 0.2, 0.1, 0.3], None),
        ({"iterations": 9, "patience": 2}, [0.3, 0.2], None),
        ({"iterations": 9, "stop_saturated": True}, [0.86], "nothing is left to select"),
        ({"iterations": 9, "stop_saturated": True}, [0.84], None),
        ({"iterations": 9}, [0.9, 0.9, 0.9], None),
    ],
)
def test_an_evolution_is_over_by_iterations_steps_patience_or_saturation(
    evolve: dict[str, Any], greedy: list[float], why: str | None, tmp_path: Path
) -> None:
    spec = Bench(tmp_path, make_config(evolve=evolve)).program
    found = stops_because(rows_of(greedy), spec)
    assert (found is None) == (why is None)
    assert why is None or why in str(found)


def test_a_run_that_ends_early_has_its_control_and_its_final_policy(tmp_path: Path) -> None:
    bench = Bench(tmp_path, make_config(evolve={"iterations": 9, "steps": 3}))
    bench.run()
    state = replay(bench.events)
    assert state.finished is not None
    assert sum(row["steps"] for row in state.iterations) == 3, "the last job takes what is left"
    assert len([name for name in state.jobs if name.startswith("control/")]) == len(
        state.iterations
    )
    assert audit(bench.store, "scripted").problems == []
    assert summary(state, bench.program, bench.store)["evolution_ended"] == (
        "evolve.steps = 3 are done"
    )


@pytest.mark.parametrize("final", ["best", "last"])
def test_the_final_policy_is_the_best_or_the_last(tmp_path: Path, final: str) -> None:
    bench = Bench(tmp_path, make_config(evolve={"iterations": 2, "final": final}))
    bench.run()
    state = replay(bench.events)
    assert state.finished is not None
    validation = bench.program.config.data.validation
    for chain, name in (("evolve", "final"), ("control", "control")):
        names = ["warmup", *(f"{chain}/{t}" for t in range(2))]
        greedy = [state.greedy(state.policies[one], validation) for one in names]
        best = names[max(range(3), key=lambda t: (greedy[t], t))]
        assert best != names[-1], "the two differ here"
        assert state.finished[name] == (best if final == "best" else names[-1])
    assert audit(bench.store, "scripted").problems == []
