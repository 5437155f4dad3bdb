"""Model cards: what a policy was made from, and nothing that differs between equal runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipeline.reports.card import model_card
from pipeline.run.spec import RunSpec
from pipeline.run.state import State
from tests.support.driving import Bench

Run = tuple[State, RunSpec]


def finished_run(folder: Path) -> Run:
    bench = Bench(folder)
    return bench.run(), bench.program


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return finished_run(tmp_path_factory.mktemp("run"))


def test_a_card_says_what_was_trained_on_what_and_how_well_it_answers(run: Run) -> None:
    state, spec = run
    assert state.finished is not None
    card, name = model_card("final", state, spec), state.finished["final"]
    policy = state.policies[name]
    assert f"(its policy `{name}`), the best of the run's policies" in card
    assert policy.version in card
    assert policy.path.rsplit("/", 1)[-1] in card
    assert "train 12, validation 5, test 5" in card
    result = state.evaluation(policy, "test", "greedy")
    assert result is not None
    assert f"| test | 5 | {100 * result['greedy']:.1f} [" in card


def test_a_card_names_the_jobs_up_to_its_policy_and_no_later_ones(run: Run) -> None:
    state, spec = run
    jobs = re.findall(r"^\| (\w+/\d+) \|", model_card("evolve/1", state, spec), re.MULTILINE)
    assert {"evolve/0", "evolve/1"} <= set(jobs)
    assert not {job for job in jobs if job.startswith("control/")} | ({"evolve/2"} & set(jobs))


def test_a_card_has_nobodys_paths(run: Run) -> None:
    state, spec = run
    card = model_card("final", state, spec, "runs/loop/ledger/0000000007.json")
    assert "* position in the run's ledger: `runs/loop/ledger/0000000007.json`" in card
    base, data = Path(spec.config.policy.path), Path(spec.config.data.path)
    assert base.is_absolute()
    assert f"`{base.name}`" in card
    assert f"`{data.name}`" in card
    assert str(base.parent) not in card


def test_equal_runs_have_equal_cards(run: Run) -> None:
    folder = Path(run[1].config.policy.path).parent
    assert model_card("final", *finished_run(folder)) == model_card("final", *run)
