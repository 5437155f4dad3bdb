"""vLLM on this device, where it is installed: generation, reload, caches, pooling."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from actors.model.images import ImageCache
from jobs.gpu_check.learner import deviation, plain_logprobs, small_model
from jobs.gpu_check.models import SMALL, TOY, make_model, make_rows, picture
from jobs.gpu_check.setting import CheckFailed, Setting, at_most
from pipeline.training.rows import TrainRow

NATS, SCORE = 0.05, 0.02
"""At most: mean deviation of log-probabilities from transformers; deviation of a step's score with
the prefix cache from one without."""


def installed() -> bool:
    """Whether there is a vLLM."""
    return find_spec("vllm") is not None


def _settings(setting: Setting) -> Any:
    from actors.generation.engine_settings import EngineSettings

    return EngineSettings(
        precision="bfloat16" if setting.on_gpu else "float32",
        max_model_len=512,
        max_sequences=64,
        kv_cache_gib=0.25,
        gpu_memory_utilization=0.3,
    )


def generation(setting: Setting) -> dict[str, Any]:
    """Samples of two policies, one loaded after the other into the same engine."""
    from actors.generation.vllm_engine import VllmEngine

    first = small_model(setting)
    second = setting.folder / "second"
    make_model(second, TOY if setting.toy else SMALL, torch.bfloat16, setting.device, seed=7)
    engine = VllmEngine(_settings(setting), ImageCache(picture).get)
    figures: dict[str, Any] = {}
    try:
        engine.load_policy(first)
        figures["engine"] = engine.runs_as
        rows, again = _sampled(engine, first), _sampled(engine, first)
        figures["equal_share"] = _equal(rows, again)
        figures["nats"] = _against_plain(first, rows, setting)
        engine.reset()
        engine.load_policy(second)
        others = _sampled(engine, second)
        figures["nats_after_reload"] = _against_plain(second, others, setting)
    finally:
        engine.close()
    figures["tokens"] = sum(len(row.token_ids_T) for row, _ in rows)
    at_most("the engine's deviation from transformers, in nats,", figures["nats"], NATS)
    at_most("its deviation after a reload, in nats,", figures["nats_after_reload"], NATS)
    return figures


Sampled = list[tuple[TrainRow, list[float]]]


def _sampled(engine: Any, policy: Path) -> Sampled:
    """One response to each of some prompts, as rows, with the engine's log-probabilities.

    Raises:
        CheckFailed: a forbidden id was sampled, or the engine fed other prompt tokens.
    """
    from dataclasses import replace

    from pipeline.generation.engine import SampleRequest
    from pipeline.prompts import prompt_hash

    asked = make_rows(policy, 12, 4)
    requests = [
        SampleRequest(row.prompt, row.images, seed=number, max_new_tokens=24)
        for number, row in enumerate(asked)
    ]
    samples = engine.generate(requests)
    for row, sample in zip(asked, samples, strict=True):
        if prompt_hash(sample.prompt_token_ids_P) != row.prompt_sha256:
            raise CheckFailed("the engine fed other prompt tokens than the processor makes")
        if set(sample.token_ids_T) & set(engine.processor.forbidden):
            raise CheckFailed(f"the engine sampled a forbidden id: {sample.token_ids_T}")
    return [
        (replace(row, token_ids_T=sample.token_ids_T), list(sample.logprobs_T))
        for row, sample in zip(asked, samples, strict=True)
    ]


def _equal(rows: Sampled, again: Sampled) -> float:
    pairs = zip(rows, again, strict=True)
    same = [one.token_ids_T == other.token_ids_T for (one, _), (other, _) in pairs]
    return sum(same) / len(same)


def _against_plain(policy: Path, sampled: Sampled, setting: Setting) -> float:
    dtype = torch.bfloat16 if setting.on_gpu else torch.float32
    theirs = plain_logprobs(policy, [row for row, _ in sampled], setting, dtype)
    return deviation({i: logprobs for i, (_, logprobs) in enumerate(sampled)}, theirs)


def pooling(setting: Setting) -> dict[str, Any]:
    """A process reward model with a random head: scores with prefix reuse beside those without."""
    from actors.model.value_head import copy_with_head
    from actors.scoring.vllm_scorer import VllmScorer
    from pipeline.prm.step_scores import ScoreRequest

    policy = small_model(setting)
    hidden = (TOY if setting.toy else SMALL).hidden
    torch.manual_seed(3)
    weight = torch.randn(1, hidden) * hidden**-0.5
    model = copy_with_head(policy, setting.folder / "served", weight.to)
    rows = make_rows(policy, 6, 40)
    # Two responses to each prompt that share their first half.
    halves = [row.token_ids_T[: len(row.token_ids_T) // 2] for row in rows]
    responses = [
        (row, tokens)
        for row, half in zip(rows, halves, strict=True)
        for tokens in (row.token_ids_T, (*half, *range(20, 32)))
    ]
    requests = [
        ScoreRequest(row.prompt, row.images, tokens, tuple(range(4, len(tokens), 4)))
        for row, tokens in responses
    ]
    found: dict[bool, Sequence[Any]] = {}
    for reuse in (True, False):
        scorer = VllmScorer(_settings(setting), ImageCache(picture).get, reuse=reuse)
        try:
            scorer.load_policy(model)
            found[reuse] = scorer.score(requests)
        finally:
            scorer.close()
    gap = max(
        abs(mine - other)
        for with_, without in zip(found[True], found[False], strict=True)
        for mine, other in zip(with_, without, strict=True)
    )
    at_most("the deviation of scores with the prefix cache", gap, SCORE)
    return {"deviation": gap, "steps": sum(len(scores) for scores in found[True])}
