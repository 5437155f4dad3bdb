"""A tensor-parallel engine, of which each part is a process: it samples and reloads as one part."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest

from actors.generation.engine_settings import EngineSettings
from actors.generation.vllm_engine import VllmEngine
from actors.model.processor import load_processor
from pipeline.generation.engine import Sample, SampleRequest
from tests.support.models import make_policy

SETTINGS = EngineSettings(
    precision="float32", max_model_len=256, max_sequences=8, kv_cache_gib=0.1, threads=1
)
NATS = 1e-3
"""Two parts add up in another order than one."""


def policy(folder: Path, seed: int) -> Path:
    """One whose vision tower can be halved."""
    file = make_policy(folder, seed) / "config.json"
    config = json.loads(file.read_text())
    config["vision_config"]["num_attention_heads"] = 2
    file.write_text(json.dumps(config))
    return folder


def no_image(sha: str) -> NoReturn:
    raise AssertionError(sha)


def sampled(parts: int, folders: Sequence[Path]) -> list[list[Sample]]:
    """A few samples from each policy, loaded one after the other into one engine."""
    processor = load_processor(folders[0])
    requests = [
        SampleRequest(processor.prompt(f"What is {i}?", 0), (), seed=i, max_new_tokens=12)
        for i in range(4)
    ]
    engine = VllmEngine(replace(SETTINGS, tensor_parallel_size=parts), no_image)
    try:
        found = []
        for folder in folders:
            engine.load_policy(folder)
            found.append(engine.generate(requests))
        return found
    finally:
        engine.close()


@pytest.mark.slow
def test_two_parts_sample_what_one_does(tmp_path: Path) -> None:
    folders = [policy(tmp_path / str(seed), seed) for seed in (0, 1)]
    for two, one in zip(sampled(2, folders), sampled(1, folders), strict=True):
        for ours, wanted in zip(two, one, strict=True):
            assert ours.token_ids_T == wanted.token_ids_T
            assert ours.logprobs_T == pytest.approx(wanted.logprobs_T, abs=NATS)
