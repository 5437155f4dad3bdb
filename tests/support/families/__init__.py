"""Tiny models of real families with random weights: complete folders of about half a million
parameters, each with its family's own config, tokens, processor and chat template (shortened)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.support.families.gemma3 import gemma3
from tests.support.families.glm4v import glm4v
from tests.support.families.internvl import internvl
from tests.support.families.llava import llava, llava_onevision
from tests.support.families.minicpmv import minicpmv
from tests.support.families.own_code.folder import own_code
from tests.support.families.pixtral import mistral3, pixtral
from tests.support.families.qwen import qwen2_5_vl, qwen2_vl, qwen3_vl
from tests.support.families.smolvlm import idefics3, smolvlm2

FAMILIES: dict[str, Callable[[Path], None]] = {
    "SmolVLM2": smolvlm2,
    "Idefics3": idefics3,
    "Qwen2-VL": qwen2_vl,
    "Qwen2.5-VL": qwen2_5_vl,
    "Qwen3-VL": qwen3_vl,
    "InternVL": internvl,
    "GLM-4.1V": glm4v,
    "LLaVA": llava,
    "LLaVA-OneVision": llava_onevision,
    "Mistral3": mistral3,
    "Pixtral": pixtral,
    "Gemma 3": gemma3,
    "MiniCPM-V 4.6": minicpmv,
    "Idefics3 by code of its own": own_code,
}
