"""Validation before a run: its stages over a scripted world, then once with the real parts."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from jobs.runtime.memory import PeakMemory, job_memory
from jobs.runtime.single_round import OneRound, StageFailed
from jobs.validate import Validation, Verdicts
from pipeline.errors import RunStopped
from pipeline.generation.shards import SamplePart, SamplingParams, ShardSpec
from pipeline.query import Query
from pipeline.records import Rollout
from pipeline.refs import PolicyRef
from pipeline.simulation.fleet import ScriptedFleet
from pipeline.simulation.learner import ScriptedLearner
from pipeline.simulation.mail import Mail
from pipeline.simulation.workers import scripted_workers
from pipeline.storage.models import publish_folder
from pipeline.storage.store import Store, open_store
from tests.support.jobs import FAKE_MODELS
from tests.support.scripted import base_folder, make_config, make_program, with_base

ROOT = Path(__file__).resolve().parents[2]


class Setting:
    """One round over a scripted world, whose roles can be told to fail."""

    def __init__(self, folder: Path) -> None:
        program = make_program(make_config())
        self.store: Store = open_store("memory://")
        self.fleet: ScriptedFleet
        self.learner: ScriptedLearner
        scripted = scripted_workers(self.store, program)
        self.fleet, self.learner = scripted.fleet, scripted.learner
        self.once = OneRound(program, self.store, scripted.workers)
        self.policy: PolicyRef = publish_folder(self.store, base_folder(folder))
        self.sampling = SamplingParams(2, 1.0, 1.0, 64)


class ScoringSetting(Setting):
    """One whose world has scorers, and whose responses have steps."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        config = with_base(make_config(**changes), folder / "base")
        program = make_program(config)
        self.store = open_store("memory://")
        scripted = scripted_workers(self.store, program)
        self.fleet = NotingFleet(self.store, program.by_hash, Mail(Random(0)))
        self.learner, self.scorer = scripted.learner, scripted.scorer
        workers = replace(scripted.workers, fleet=self.fleet)
        self.once = OneRound(program, self.store, workers)
        self.policy = publish_folder(self.store, folder / "base")
        self.sampling = SamplingParams(4, 1.0, 1.0, 64)


class Silent:
    """Engines that never answer."""

    def submit(self, spec: ShardSpec, policy: PolicyRef) -> None:
        pass

    def poll(self) -> list[Any]:
        return []


class NotingFleet(ScriptedFleet):
    """asked: prompt kind and policy of every shard."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args, steps=True)
        self.asked: list[tuple[str, str]] = []

    def submit(self, spec: ShardSpec, policy: PolicyRef) -> None:
        self.asked.append((spec.prompt, policy.version))
        super().submit(spec, policy)


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(tmp_path / "base")


def test_the_stages_give_rows_grades_and_a_trained_policy(setting: Setting) -> None:
    sampled = setting.once.sample("question", setting.policy, setting.sampling)
    assert len(sampled.rows) == len(sampled.grades) == 2 * len(setting.once.queries)
    assert sampled.coverage.samples == len(sampled.rows)
    done = setting.once.train(sampled.rows, sampled, setting.policy)
    assert done.steps == 1
    assert done.policy != setting.policy
    assert done.logprob_deviation is not None


def test_a_query_that_cannot_be_asked_is_named_and_has_no_rows(setting: Setting) -> None:
    bad = setting.once.queries[0].content_hash
    setting.fleet.bad = {bad}
    sampled = setting.once.sample("question", setting.policy, setting.sampling)
    assert [one.query for one in sampled.bad] == [bad]
    assert bad not in {row.query for row in sampled.rows}


def test_a_process_reward_model_scores_every_distinct_response(tmp_path: Path) -> None:
    scoring = ScoringSetting(tmp_path)
    sampled = scoring.once.sample("question", scoring.policy, scoring.sampling)
    scores, excluded = scoring.once.score(sampled, scoring.policy)
    places = {(row.query, row.sample_index): row.text for row in sampled.rows}
    texts = [(one.query, places[one.query, one.sample_index]) for one in scores]
    assert len(texts) == len(set(texts))
    assert set(texts) == {(row.query, row.text) for row in sampled.rows}
    assert excluded == {}
    scoring.scorer.fail = "every scorer died"
    with pytest.raises(StageFailed, match="scoring: every scorer died"):
        scoring.once.score(sampled, scoring.policy)


@pytest.mark.parametrize("own", [False, True])
def test_what_one_gave_is_what_goes_through_the_stages(tmp_path: Path, own: bool) -> None:
    """A warm-up checkpoint answers, and the PRM that was given, else an untrained head, scores."""
    checkpoint, prm = base_folder(tmp_path / "warm", 0.8), base_folder(tmp_path / "prm", 0.1)
    changes: dict[str, Any] = {"select": {"rule": "top_k", "reward": "prm"}}
    if own:
        changes |= {"warmup": {"checkpoint": str(checkpoint)}, "evolve": {"control": False}}
        changes |= {"prm": {"path": str(prm)}}
    scoring = ScoringSetting(tmp_path, **changes)
    said, verdicts = list[str](), Verdicts()
    scoring.scorer.quality = 1.0 if own else 0.0
    Validation(scoring.once, verdicts, said.append, tmp_path / "own", FAKE_MODELS).run(2)
    given = [publish_folder(scoring.store, folder) for folder in (checkpoint, prm)]
    untried = [words for how, words in verdicts.found if how == "untried"]
    assert not any("reward model" in words for how, words in verdicts.found if how == "FAILED")
    verdicts.show(said.append)
    assert sum("reward model scored" in words for _, words in verdicts.found) == 1
    assert sum("reward 0." in line for line in said) == len(scoring.scorer.asked[0][1])
    assert isinstance(scoring.fleet, NotingFleet)
    asked = scoring.fleet.asked
    if own:
        assert asked[0] == ("question", given[0].version)
        assert [prompt for prompt, _ in asked] == ["question", "question"]
        assert [task.scoring.prm.version for task, _ in scoring.scorer.asked] == [given[1].version]
        assert untried == []
    else:
        assert asked[:2] == [(kind, scoring.policy.version) for kind in ("question", "warmup")]
        made = publish_folder(scoring.store, tmp_path / "own" / "untrained-prm")
        assert [task.scoring.prm.version for task, _ in scoring.scorer.asked] == [made.version]
        assert "its training and its gate" in untried[0]
        assert any(line.startswith(" untried  ") for line in said)


def test_an_untrained_head_that_says_more_than_half_is_not_the_one_that_was_served(
    tmp_path: Path,
) -> None:
    scoring = ScoringSetting(tmp_path, select={"rule": "top_k", "reward": "prm"})
    said: list[str] = []
    verdicts = Verdicts()
    Validation(scoring.once, verdicts, said.append, tmp_path / "own", FAKE_MODELS).run(2)
    failed = [words for how, words in verdicts.found if how == "FAILED"]
    assert any("untrained, each is 0.5" in words for words in failed)


class Unskilled(ScriptedFleet):
    """Engines of a policy that never answers correctly, not even when it is given the answer."""

    def response(
        self, spec: ShardSpec, query: Query, part: SamplePart, i: int, skill: float
    ) -> Rollout:
        return replace(super().response(spec, query, part, i, skill), text="I cannot tell")


def test_what_can_come_to_nothing_is_not_called_ok(
    tmp_path: Path,
) -> None:
    config = with_base(make_config(), tmp_path / "base")
    program, store = make_program(config), open_store("memory://")
    world = scripted_workers(store, program).workers
    world = replace(world, fleet=Unskilled(store, program.by_hash, Mail(Random(0))))
    verdicts = Verdicts()
    Validation(
        OneRound(program, store, world), verdicts, lambda text: None, tmp_path, FAKE_MODELS
    ).run(2)
    (asked,) = (found for found in verdicts.found if "24 responses" in found[1])
    (chains,) = (found for found in verdicts.found if "24 warm-up chains" in found[1])
    assert asked[0] == "doubtful"
    assert "0 % could be read, 0 % are correct" in asked[1]
    assert asked[1].endswith("the warm-up has to teach it")
    assert chains[0] == "FAILED"
    assert "prompt.warmup" in chains[1]
    assert not verdicts.show(lambda text: None)


def test_a_stage_that_fails_is_named(setting: Setting) -> None:
    sampled = setting.once.sample("question", setting.policy, setting.sampling)
    setting.learner.guard = "they differ by 0.3 nats"
    with pytest.raises(StageFailed, match="learning: they differ"):
        setting.once.train(sampled.rows, sampled, setting.policy)
    setting.fleet.fail = {0}
    with pytest.raises(StageFailed, match="generation: every engine died"):
        setting.once.sample("warmup", setting.policy, setting.sampling)


@pytest.mark.timeout(30)
def test_nobody_waits_for_a_stage_whose_node_is_dead(
    setting: Setting,
) -> None:
    def dead() -> None:
        raise RunStopped("the Ray node is dead")

    setting.once.world = replace(setting.once.world, fleet=Silent(), check=dead)
    with pytest.raises(RunStopped, match="is dead"):
        setting.once.sample("question", setting.policy, setting.sampling)


def test_one_failure_spoils_the_verdict_and_a_doubt_does_not() -> None:
    said: list[str] = []
    verdicts = Verdicts()
    verdicts.check(True, "tokens are equal")
    verdicts.doubt(True, "every response was cut")
    verdicts.doubt(False, "never said")
    assert verdicts.show(said.append)
    assert said[-1] == "verdict: this can be run, but see what is doubtful"
    verdicts.check(False, "learning: they differ")
    assert not verdicts.show(said.append)
    assert "  FAILED  learning: they differ" in said
    assert said[-1] == "verdict: this cannot be run as it is"
    assert not any("never said" in line for line in said)


def test_memory_is_that_of_the_job_and_what_it_started() -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", "held = b'x' * (64 << 20); print(1, flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert child.stdout is not None
    child.stdout.readline()
    with PeakMemory(every_s=0.01) as peak:
        found = job_memory()
    child.communicate(b"\n")
    assert sum(found.values()) > 64
    assert peak.total >= max(peak.by_title.values())
    assert set(peak.by_title) >= set(found)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_real_parts_agree_on_the_digits(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "jobs.validate", "--config", "tiny", "--samples", "2"]
    ended = subprocess.run(
        [*command, "--set", f"run.out={tmp_path}"],
        cwd=ROOT,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.count("prompt tokens, equal in the engine") == 5
    assert "log-probabilities differ by" in ended.stdout
    assert "ray::GeneratorActor" in ended.stdout
    assert ended.stdout.splitlines()[-1].startswith("verdict: this can be run")
    assert list((tmp_path / "tiny" / "store").rglob("*.parquet")) == []
