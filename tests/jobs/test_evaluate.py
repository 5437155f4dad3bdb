"""Figure 2 of a run: its policy and PRM, sampled, graded and scored by scripted roles."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs.evaluate import Through, chosen, evaluate
from jobs.run import evolve
from jobs.runtime.prepare import out_folder, store_url
from pipeline.errors import BadConfig
from pipeline.reports.voting import Group
from pipeline.run.events.wire import replay
from pipeline.run.ledger import Ledger
from pipeline.run.state import State
from pipeline.stages.score import Scoring
from pipeline.stages.workers import Workers
from pipeline.storage.store import open_store
from tests.support.jobs import SCRIPTED, job_config
from tests.support.scripted import make_config
from tests.support.scripted_prm import PrmBench

K = 6

PRM: dict[str, dict[str, Any]] = {
    "select": {"rule": "top_k", "k": 1, "reward": "prm"},
    "prm": {"samples": 6, "completions": 3, "pairs": 2, "held_out": 0.3},
    "generate": {"samples": K},
}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> PrmBench:
    made = PrmBench(tmp_path_factory.mktemp("run"), make_config(**PRM))
    made.driver().run()
    return made


@pytest.fixture
def world(bench: PrmBench) -> Workers:
    return bench.driver().world


@pytest.fixture
def state(bench: PrmBench) -> State:
    return replay(bench.events)


class NoFleet:
    """Nothing can be sampled."""


def groups_of(bench: PrmBench, world: Workers, state: State) -> list[Group]:
    policy, prm = chosen(state, "final", bench.config)
    through = Through(bench.program, bench.store, world, Scoring(prm, "all", "min"))
    return through.groups(policy, "validation", K, 1.0)


def test_every_question_has_its_samples_as_they_were_graded_and_scored(
    bench: PrmBench, world: Workers, state: State
) -> None:
    groups = groups_of(bench, world, state)
    policy, _ = chosen(state, "final", bench.config)
    assert [g.query for g in groups] == list(bench.program.splits["validation"])
    assert sum(g.greedy for g in groups) / len(groups) == state.greedy(policy, "validation")
    for group in groups:
        assert {len(part) for part in (group.correct_K, group.rewards_K, group.texts_K)} == {K}
        answers = [text.rpartition("\n")[2] for text in group.texts_K]
        assert list(group.answers_K) == answers
        assert list(group.correct_K) == [one == group.query.answer for one in answers]
        assert set(group.steps_K) == {2}
        assert list(group.tokens_K) == [len(text) for text in group.texts_K]
        assert all(group.whole_K)
        assert len(set(zip(group.texts_K, group.rewards_K, strict=True))) == len(set(group.texts_K))
    assert None not in {reward for group in groups for reward in group.rewards_K}
    assert any(len(set(group.texts_K)) < K for group in groups), "equal texts are scored once"


def test_what_is_in_the_store_is_not_sampled_again(
    bench: PrmBench, world: Workers, state: State
) -> None:
    first = groups_of(bench, world, state)
    asleep = replace(world, fleet=NoFleet())  # type: ignore[arg-type]
    assert groups_of(bench, asleep, state) == first


def test_a_run_without_the_policy_or_without_a_prm_is_told(bench: PrmBench, state: State) -> None:
    policy, prm = chosen(state, "evolve/0", bench.config)
    assert policy == state.policies["evolve/0"]
    assert prm == state.policies["prm"]
    with pytest.raises(BadConfig, match=r"--policy evolve/9: .* has .*evolve/0.*warmup"):
        chosen(state, "evolve/9", bench.config)
    del state.policies["prm"]
    with pytest.raises(BadConfig, match=r"no process reward model.*select\.reward=prm"):
        chosen(state, "final", bench.config)


def test_the_job_writes_its_numbers_and_leaves_the_ledger_alone(tmp_path: Path) -> None:
    config = job_config(tmp_path, None, **PRM)
    evolve(config, parts=SCRIPTED)
    ledger = Ledger(open_store(store_url(config)), config.run.name)
    entries = ledger.numbers()
    found = evaluate(config, "final", "", samples=K, temperature=1.0, parts=SCRIPTED)
    assert ledger.numbers() == entries
    assert found["split"] == "validation"
    assert set(found["votes"]["majority"]) == {"1", "2", "4", "6"}
    assert found["distributions"]["right"]["responses"] > 0
    folder = out_folder(config) / "evaluate"
    assert json.loads((folder / "figure2-final-validation.json").read_text()) == found
    for name in ("votes", "scores"):
        assert (folder / f"{name}-final-validation.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(BadConfig, match="--split nowhere"):
        evaluate(config, "final", "nowhere", samples=K, temperature=1.0, parts=SCRIPTED)
