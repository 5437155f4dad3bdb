"""The token limit of an engine: what the settings allow, and no more than the model reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from actors.generation.engine_settings import engine_settings
from tests.support.scripted import make_config


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        ({"max_position_embeddings": 512}, 512),
        ({"text_config": {"max_position_embeddings": 512}}, 512),
        ({"max_position_embeddings": 512, "rope_scaling": {"factor": 4.0}}, 2048),
        ({"max_position_embeddings": 32_768}, 4096),
        ({}, 4096),
    ],
)
def test_no_engine_is_built_for_more_tokens_than_its_model_reads(
    tmp_path: Path, config: dict[str, object], limit: int
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    settings = make_config(generate={"max_model_len": 4096}, policy={"path": str(tmp_path)})
    assert engine_settings(settings).max_model_len == limit
    assert engine_settings(settings).identity().max_model_len == limit
