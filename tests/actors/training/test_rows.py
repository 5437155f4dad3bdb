"""Rows of training on a node that has of the policy what rows need, and no more."""

from __future__ import annotations

import shutil
from pathlib import Path

from actors.training.rows import RowMaker
from pipeline.prompts import PromptTemplates
from pipeline.storage.backend import MemoryBackend
from pipeline.storage.store import Store

BASE = Path(__file__).resolve().parents[3] / "assets" / "digits-base"


def test_rows_need_no_weights_of_the_policy(tmp_path: Path) -> None:
    """Where no engine has read the policy (what it sampled was in the store already), it is fetched
    without its weights."""
    light = tmp_path / "light"
    shutil.copytree(BASE, light, ignore=shutil.ignore_patterns("*.safetensors"))
    maker = RowMaker(Store(MemoryBackend()), {}, PromptTemplates())
    processor = maker.processor(light)
    assert processor is maker.processor(light)
    assert "1 + 1?" in processor.prompt("1 + 1?", 0)
