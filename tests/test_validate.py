"""Validation before a run: its stages over a scripted world, then once with the real parts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.memory import PeakMemory, job_memory
from jobs.one_round import OneRound, StageFailed
from jobs.validate import Verdicts
from pipeline.plan import Sampling
from pipeline.policies import publish_folder
from pipeline.roles import PolicyRef
from pipeline.store import Store, open_store
from tests.scripted import base_folder, make_config, make_program
from tests.scripted_world import ScriptedFleet, ScriptedLearner, make_world

ROOT = Path(__file__).resolve().parent.parent


class Setting:
    """One round over a scripted world, whose roles can be told to fail."""

    def __init__(self, folder: Path) -> None:
        program = make_program(make_config())
        self.store: Store = open_store("memory://")
        self.fleet: ScriptedFleet
        self.learner: ScriptedLearner
        world, self.fleet, self.learner = make_world(self.store, program)
        self.once = OneRound(program, self.store, world)
        self.policy: PolicyRef = publish_folder(self.store, base_folder(folder))
        self.sampling = Sampling(2, 1.0, 1.0, 64)


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(tmp_path / "base")


def test_the_stages_give_rows_grades_and_a_trained_policy(setting: Setting) -> None:
    sampled = setting.once.sample("question", setting.policy, setting.sampling)
    assert len(sampled.rows) == len(sampled.grades) == 2 * len(setting.once.queries)
    assert sampled.coverage.samples == len(sampled.rows)
    done = setting.once.train(sampled.rows, setting.policy)
    assert done.steps == 1
    assert done.policy != setting.policy
    assert done.logprob_deviation is not None


def test_a_query_that_cannot_be_asked_is_named_and_has_no_rows(setting: Setting) -> None:
    bad = setting.once.queries[0].content_hash
    setting.fleet.bad = {bad}
    sampled = setting.once.sample("question", setting.policy, setting.sampling)
    assert [one.query for one in sampled.bad] == [bad]
    assert bad not in {row.query for row in sampled.rows}


def test_a_stage_that_fails_is_named(setting: Setting) -> None:
    sampled = setting.once.sample("question", setting.policy, setting.sampling)
    setting.learner.guard = "they differ by 0.3 nats"
    with pytest.raises(StageFailed, match="learning: they differ"):
        setting.once.train(sampled.rows, setting.policy)
    setting.fleet.fail = {0}
    with pytest.raises(StageFailed, match="generation: every engine died"):
        setting.once.sample("warmup", setting.policy, setting.sampling)


def test_one_failure_spoils_the_verdict_and_a_doubt_does_not() -> None:
    said: list[str] = []
    verdicts = Verdicts()
    verdicts.check(True, "tokens are equal")
    verdicts.doubt(True, "every response was cut")
    verdicts.doubt(False, "never said")
    assert verdicts.show(said.append)
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
    assert ended.stdout.splitlines()[-1] == "verdict: this can be run"
    assert list((tmp_path / "tiny" / "store").rglob("*.parquet")) == []
