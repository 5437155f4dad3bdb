"""What the main command says of a PRM that cannot be had, before Ray or any engine starts."""

from __future__ import annotations

import shutil
from pathlib import Path
from unittest.mock import Mock

import pytest

from jobs.runtime.check_models import check_models
from pipeline.config.fields import to_dict
from pipeline.config.load import config_from_dict
from pipeline.config.schema import Config
from tests.actors.model.test_likelihood import untied
from tests.jobs.test_run import command, write_data
from tests.support.models import make_policy
from tests.support.scripted import make_config


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_policy(tmp_path_factory.mktemp("policy") / "policy", 0)


@pytest.fixture
def config(policy: Path, tmp_path: Path) -> Config:
    plain = to_dict(make_config(select={"reward": "prm", "rule": "top_k", "k": 2}))
    plain["run"] |= {"out": str(tmp_path / "out"), "console": "plain"}
    plain["data"]["path"] = str(write_data(tmp_path))
    plain["policy"]["path"] = str(policy)
    return config_from_dict(plain)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("prm.frozen=['*vison*']", ["prm.frozen", "'*vison*' names no parameter", "vision"]),
        ("prm.frozen=['*']", ["prm.frozen", "freezes score.weight too"]),
        ("prm.path={policy}", ["{policy} has no score.weight", "prm.kind=tag"]),
        ("prm.path=nowhere/prm", ["nowhere/prm"]),
    ],
)
def test_it_is_refused_before_anything_starts(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, override: str, words: list[str]
) -> None:
    running = Mock(side_effect=AssertionError("a world was started"))
    monkeypatch.setattr("jobs.run.running", running)
    policy = Path(config.policy.path)
    folders = {"policy": policy}
    done = command(config, tmp_path, override.format(**folders))
    assert done.exit_code == 2, done.output
    for word in words:
        assert word.format(**folders) in done.output
    assert "Traceback" not in done.output
    assert not running.called


def test_a_policy_that_finds_no_token_likely_builds_no_prm_that_sees_it(
    config: Config, tmp_path: Path
) -> None:
    policy = untied(make_policy(tmp_path / "untied", 0))
    told = [f"policy.path={policy}"]
    done = command(config, tmp_path, *told, "prm.surprise=true")
    assert done.exit_code == 2, done.output
    assert f"{policy}: nothing in it gives tokens their logits" in done.output
    assert "Traceback" not in done.output


def test_truncated_weights_are_named(config: Config, policy: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(policy, copy)
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    done = command(config, tmp_path, f"policy.path={copy}")
    assert done.exit_code == 2, done.output
    assert f"{file} is truncated: it has " in done.output


def test_the_defaults_suit_the_policy(config: Config) -> None:
    check_models(config)
