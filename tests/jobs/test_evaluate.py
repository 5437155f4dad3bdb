"""Figure 2 of a run: its policy and PRM, sampled, graded and scored by scripted roles."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from jobs.evaluate import Through, chosen, evaluate
from pipeline.config.schema import Config
from pipeline.errors import BadConfig
from pipeline.reports.voting import Group
from pipeline.run.events.wire import replay
from pipeline.run.ledger import Ledger
from pipeline.run.state import State
from pipeline.stages.score import Scoring
from pipeline.stages.workers import Workers
from tests.pipeline.driver.test_prm_driver import prm_config
from tests.support.scripted_prm import PrmBench

K = 6


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> PrmBench:
    made = PrmBench(tmp_path_factory.mktemp("run"), prm_config())
    made.driver().run()
    return made


@pytest.fixture
def world(bench: PrmBench, monkeypatch: pytest.MonkeyPatch) -> Workers:
    monkeypatch.setattr("jobs.runtime.single_round.POLL_S", 0.0)
    return bench.driver().world


@pytest.fixture
def state(bench: PrmBench) -> State:
    return replay(bench.events)


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
    bench: PrmBench, world: Workers, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = groups_of(bench, world, state)
    monkeypatch.setattr(world.fleet, "submit", Mock(side_effect=AssertionError("sampled again")))
    assert groups_of(bench, world, state) == first


def test_a_run_without_the_policy_or_without_a_prm_is_told(bench: PrmBench, state: State) -> None:
    policy, prm = chosen(state, "evolve/0", bench.config)
    assert policy == state.policies["evolve/0"]
    assert prm == state.policies["prm"]
    with pytest.raises(BadConfig, match=r"--policy evolve/9: .* has .*evolve/0.*warmup"):
        chosen(state, "evolve/9", bench.config)
    del state.policies["prm"]
    with pytest.raises(BadConfig, match=r"no process reward model.*select\.reward=prm"):
        chosen(state, "final", bench.config)


def test_the_job_writes_its_numbers_and_leaves_the_ledger_alone(
    bench: PrmBench, world: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def running(*_: Any) -> Iterator[Workers]:
        yield world

    given: dict[str, Any] = {
        "run_store": lambda *_: bench.store,
        "load_data": Mock(),
        "engine_settings": Mock(),
        "upload_images": Mock(),
        "RunSpec": Mock(of=lambda *_: bench.program),
        "running": running,
    }
    for name, stand_in in given.items():
        monkeypatch.setattr(f"jobs.evaluate.{name}", stand_in)
    run = bench.config.run.model_copy(update={"out": str(tmp_path)})
    config: Config = bench.config.model_copy(update={"run": run})
    entries = Ledger(bench.store, run.name).numbers()
    found = evaluate(config, "final", "", samples=K, temperature=1.0)
    assert Ledger(bench.store, run.name).numbers() == entries
    assert found["split"] == "validation"
    assert set(found["votes"]["majority"]) == {"1", "2", "4", "6"}
    assert found["distributions"]["right"]["responses"] > 0
    folder = tmp_path / run.name / "evaluate"
    assert json.loads((folder / "figure2-final-validation.json").read_text()) == found
    for name in ("votes", "scores"):
        assert (folder / f"{name}-final-validation.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(BadConfig, match="--split nowhere"):
        evaluate(config, "final", "nowhere", samples=K, temperature=1.0)
