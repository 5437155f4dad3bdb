"""Policies that vLLM has no class for are refused before engines start."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from actors.generation.architectures import SERVED, check_architecture, installed_architectures
from pipeline.errors import BadModel


def folder(path: Path, **config: Any) -> Path:
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(config))
    return path


def test_a_model_that_vllm_has_no_class_for_is_refused(tmp_path: Path) -> None:
    mllama = folder(tmp_path / "mllama", architectures=["MllamaForConditionalGeneration"])
    with pytest.raises(BadModel, match="no class for MllamaForConditionalGeneration"):
        check_architecture(mllama, lambda: SERVED)
    check_architecture(mllama, lambda: {"MllamaForConditionalGeneration"})
    check_architecture(mllama, lambda: None)


def test_nothing_is_asked_about_a_family_that_is_tested(tmp_path: Path) -> None:
    def asked() -> None:
        raise AssertionError("vLLM was asked")

    check_architecture(folder(tmp_path / "a", architectures=[min(SERVED)]), asked)
    check_architecture(folder(tmp_path / "b"), asked)
    check_architecture(folder(tmp_path / "c", architectures=["Own"], auto_map={}), asked)


@pytest.mark.slow
def test_the_installed_vllm_serves_the_families_that_are_tested() -> None:
    installed = installed_architectures()
    assert installed is not None
    assert installed > SERVED
    assert "MllamaForConditionalGeneration" not in installed
