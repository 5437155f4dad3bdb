"""Options of an engine: its token limit, no more than the model reads, and its processes; and the
patience that its pool has with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from actors.generation.engine_settings import EngineSettings, common_options, engine_settings
from actors.generation.fleet import pool_settings
from actors.stages.worker import stage_settings
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


@pytest.mark.parametrize(("gpus", "backend"), [(1, None), (2, "mp")])
def test_an_engine_on_several_gpus_runs_in_processes_of_its_own_node(
    tmp_path: Path, gpus: int, backend: str | None
) -> None:
    """Left to itself inside a placement group, vLLM takes Ray and refuses a bundle of two GPUs."""
    options = common_options(
        EngineSettings(tensor_parallel_size=gpus), tmp_path, chunked_prefill=True
    )
    assert options["tensor_parallel_size"] == gpus
    assert options.get("distributed_executor_backend") == backend


def test_every_patience_of_a_pool_is_a_key() -> None:
    patience = {
        "heartbeat_s": 3.0, "unreachable_s": 5.0, "backoff_s": 7.0, "backoff_most_s": 11.0,
        "idle_s": 13.0,
    }  # fmt: skip
    config = make_config(cluster=patience, generate={"start_s": 17.0, "hang_s": 19.0})
    settings = pool_settings(config, most=1, least=None, inflight=1)
    wanted = patience | {"start_s": 17.0, "hang_s": 19.0}
    assert {name: getattr(settings, name) for name in wanted} == wanted
    del wanted["idle_s"]
    config = make_config(cluster=patience, grade={"start_s": 17.0, "hang_s": 19.0})
    settings = stage_settings(config)
    assert {name: getattr(settings, name) for name in wanted} == wanted


@pytest.mark.parametrize(
    ("layers", "chunked_prefill", "shared"),
    [
        (["linear_attention", "full_attention"], False, False),
        (["linear_attention", "full_attention"], True, True),
        (["sliding_attention", "full_attention"], False, True),
        (None, False, True),
    ],
)
def test_prefixes_of_recurrent_models_are_shared_only_where_prefill_is_chunked(
    tmp_path: Path, layers: list[str] | None, chunked_prefill: bool, shared: bool
) -> None:
    """Otherwise vLLM says that chunked prefill is required for mamba cache mode 'align'."""
    config = {"text_config": {} if layers is None else {"layer_types": layers}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    options = common_options(EngineSettings(), tmp_path, chunked_prefill=chunked_prefill)
    assert options["enable_prefix_caching"] is shared
    assert options["enable_chunked_prefill"] is chunked_prefill
