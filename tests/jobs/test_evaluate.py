"""Figure 2 of a run: its policy and PRM, sampled, graded and scored by scripted roles."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs.evaluate import chosen, evaluate
from jobs.run import evolve
from jobs.runtime.evaluation import Through
from jobs.runtime.prepare import out_folder, store_url
from jobs.runtime.stores import run_config
from pipeline.errors import BadConfig
from pipeline.reports.comparison import named_policies
from pipeline.reports.voting import Group
from pipeline.run.events.wire import replay
from pipeline.run.ledger import Ledger
from pipeline.run.state import State
from pipeline.stages.score import Scoring
from pipeline.stages.workers import Workers
from pipeline.storage.store import open_store
from tests.support.driving import Bench
from tests.support.jobs import SCRIPTED, job_config
from tests.support.scripted import make_config

K = 6

PRM: dict[str, Any] = {
    "select": {"rule": "top_k", "k": 1, "reward": "prm"},
    "prm": {"samples": 6, "completions": 3, "pairs": 2, "held_out": 0.3},
    "generate": {"samples": K},
}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    made = Bench(tmp_path_factory.mktemp("run"), make_config(**PRM))
    made.run()
    return made


@pytest.fixture
def world(bench: Bench) -> Workers:
    return bench.context().workers


@pytest.fixture
def state(bench: Bench) -> State:
    return replay(bench.events)


class NoFleet:
    """Nothing can be sampled."""


def groups_of(bench: Bench, world: Workers, state: State) -> list[Group]:
    policy = chosen(state, "final", bench.config, bench.store)
    assert policy.reference is not None
    assert policy.prm is not None
    through = Through(bench.program, bench.store, world, Scoring(policy.prm, "all", "min"))
    return through.groups(policy.reference, "validation", K, 1.0)


def test_every_question_has_its_samples_as_they_were_graded_and_scored(
    bench: Bench, world: Workers, state: State
) -> None:
    groups = groups_of(bench, world, state)
    policy = chosen(state, "final", bench.config, bench.store).reference
    assert policy is not None
    assert [g.query for g in groups] == list(bench.program.splits["validation"])
    assert sum(g.greedy for g in groups) / len(groups) == state.greedy(policy, "validation")
    for group in groups:
        assert {len(part) for part in (group.correct_K, group.rewards_K, group.texts_K)} == {K}
        answers = [text.rpartition("\n")[2] for text in group.texts_K]
        assert list(group.classes_K) == [answers.index(one) for one in answers]
        assert list(group.correct_K) == [one == group.query.answer for one in answers]
        assert set(group.steps_K) == {2}
        assert list(group.tokens_K) == [len(text) for text in group.texts_K]
        assert len(set(zip(group.texts_K, group.rewards_K, strict=True))) == len(set(group.texts_K))
    assert None not in {reward for group in groups for reward in group.rewards_K}
    assert any(len(set(group.texts_K)) < K for group in groups), "equal texts are scored once"


def test_what_is_in_the_store_is_not_sampled_again(
    bench: Bench, world: Workers, state: State
) -> None:
    first = groups_of(bench, world, state)
    asleep = replace(world, fleet=NoFleet())  # type: ignore[arg-type]
    assert groups_of(bench, asleep, state) == first


def test_a_policy_is_one_of_the_run_or_a_folder(bench: Bench, state: State, tmp_path: Path) -> None:
    of_the_run = chosen(state, "evolve/0", bench.config, bench.store)
    assert of_the_run.reference == state.policies["evolve/0"]
    assert of_the_run.prm == state.policies["prm"]
    with pytest.raises(BadConfig, match=r"--policy evolve/9: no such model folder.*evolve/0"):
        chosen(state, "evolve/9", bench.config, bench.store)
    folder = chosen(state, str(tmp_path), bench.config, bench.store)
    assert (folder.reference, folder.prm) == (None, None)
    assert folder.config.policy.path == str(tmp_path)
    assert folder.config.select.reward == "binary", "nothing is scored by the run's PRM"
    with pytest.raises(BadConfig, match=r"holds no run .* `hf download org/model "):
        chosen(State(), "org/model", bench.config, bench.store)
    del state.policies["prm"]
    without = chosen(state, "final", bench.config, bench.store)
    assert without.prm is None
    assert without.config.select.reward == "binary"


def test_the_job_writes_its_numbers_and_leaves_the_ledger_alone(tmp_path: Path) -> None:
    config = job_config(tmp_path, **PRM)
    evolve(config, parts=SCRIPTED)
    ledger = Ledger(open_store(store_url(config)), config.run.name)
    entries = ledger.numbers()
    found = evaluate(config, "final", "", samples=K, temperature=1.0, parts=SCRIPTED)
    assert ledger.numbers() == entries
    figure, folder = found["figure_2"], out_folder(config) / "evaluate"
    assert figure["split"] == "test", "not the questions that chose the policy"
    assert set(figure["votes"]["majority"]) == {"1", "2", "4", "6"}
    assert figure["distributions"]["right"]["responses"] > 0
    assert json.loads((folder / "figure2-final-test.json").read_text()) == figure
    for name in ("votes", "scores"):
        assert (folder / f"{name}-final-test.png").read_bytes()[:4] == b"\x89PNG"
    assert figure["greedy"]["value"] == found["greedy"]["greedy"]
    with pytest.raises(BadConfig, match="--split nowhere"):
        evaluate(config, "final", "nowhere", samples=K, temperature=1.0, parts=SCRIPTED)


def test_any_policy_is_evaluated_on_any_data_with_and_without_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = job_config(tmp_path, policy={"trust_remote_code": True})
    other = tmp_path / "other.jsonl"
    rows = [{"question": f"other: what is {i}?", "answer": str(i)} for i in range(8)]
    other.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options: dict[str, Any] = {"samples": 2, "temperature": 1.0, "parts": SCRIPTED}
    model = config.policy.path
    found = evaluate(config, model, data=str(other), **options)
    assert (found["split"], found["greedy"]["n"], found["sampled"]["samples"]) == ("all", 8, 2)
    assert "figure_2" not in found
    shown = capsys.readouterr().out
    assert "all has 8 questions: a 95 % interval" in shown
    (path,) = (out_folder(config) / "evaluate").glob("*.json")
    assert json.loads(path.read_text()) == found
    evolve(config, parts=SCRIPTED)
    state = replay(Ledger(open_store(store_url(config)), config.run.name).replay())
    # A store does not consent to its own code: each command says whether that may be run.
    place = str(out_folder(config))
    consents = ["policy.trust_remote_code=true"]
    assert run_config(place, None, consents).policy.trust_remote_code
    settings = run_config(place, None)
    assert not settings.policy.trust_remote_code
    again = evaluate(settings, "final", "test", **options | {"samples": 0})
    result = state.evaluation(named_policies(state)["final"], "test", "greedy")
    assert result is not None
    assert again["greedy"] == {key: value for key, value in result.items() if key != "grades"}
    assert again["sampled"] is None
    with pytest.raises(BadConfig, match="has no labelled query there; it has test, train, valid"):
        evaluate(settings, "final", "ood", data=str(other), **options)
