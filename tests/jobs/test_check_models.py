"""What the main command says of a PRM that cannot be had, before Ray or any engine starts."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from jobs.runtime.check_models import check_models
from pipeline.config.schema import Config, Policy
from tests.support.jobs import job_config, refused
from tests.support.models import make_policy, untied


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_policy(tmp_path_factory.mktemp("policy") / "policy", 0)


@pytest.fixture
def config(policy: Path, tmp_path: Path) -> Config:
    config = job_config(tmp_path, select={"reward": "prm", "rule": "top_k", "k": 2})
    return config.model_copy(update={"policy": Policy(path=str(policy))})


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
    config: Config, tmp_path: Path, override: str, words: list[str]
) -> None:
    policy = Path(config.policy.path)
    folders = {"policy": policy}
    said = refused(config, tmp_path, override.format(**folders))
    for word in words:
        assert word.format(**folders) in said
    assert not list(Path(config.run.out).rglob("lease/*")), "it got as far as its lease"


def test_a_policy_that_nothing_gives_its_tokens_logits_is_refused(
    config: Config, tmp_path: Path
) -> None:
    """transformers would start from a random head, and only warn."""
    policy = untied(make_policy(tmp_path / "untied", 0))
    said = refused(config, tmp_path, f"policy.path={policy}")
    assert f"{policy} cannot be trained here:" in said
    assert "its weights hold no lm_head" in said


def test_truncated_weights_are_named(config: Config, policy: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(policy, copy)
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    said = refused(config, tmp_path, f"policy.path={copy}")
    assert f"{file} is truncated: it has " in said


def test_the_defaults_suit_the_policy(config: Config) -> None:
    check_models(config)
