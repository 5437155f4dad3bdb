"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers as hf

from tests.support.families.parts import (
    CHAT_TEMPLATE,
    HIDDEN,
    NORMAL,
    QWEN_WORDS,
    SEEN,
    SEEN_HEADS,
    SEEN_INNER,
    Words,
    mrope,
    save,
    words,
)

QWEN_TEMPLATE = CHAT_TEMPLATE.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")


def _qwen_words() -> Words:
    return words(QWEN_WORDS, end="<|im_end|>", pad="<|endoftext|>")


def _qwen(
    folder: Path,
    config: Any,
    processor: Any,
    video: Any,
    *,
    patch: int,
    text: dict[str, Any],
    vision: dict[str, Any],
) -> None:
    known = _qwen_words()
    pixels = (2 * patch) ** 2
    size = {"size": {"shortest_edge": 4 * pixels, "longest_edge": 16 * pixels}, **NORMAL}
    made = processor(
        hf.Qwen2VLImageProcessor(patch_size=patch, **size),
        known.tokenizer,
        video(patch_size=patch, **size),
        chat_template=QWEN_TEMPLATE,
    )
    settings = config(
        text_config=known.text(**text),
        vision_config={"depth": 2, "num_heads": SEEN_HEADS, **vision},
        tie_word_embeddings=True,
        image_token_id=known["<|image_pad|>"],
        video_token_id=known["<|video_pad|>"],
        vision_start_token_id=known["<|vision_start|>"],
        vision_end_token_id=known["<|vision_end|>"],
    )
    save(folder, settings, made, [known["<|im_end|>"], known["<|endoftext|>"]])


def qwen2_vl(folder: Path) -> None:
    text = {"kind": "qwen2_vl_text", "rope_parameters": mrope([4, 6, 6])}
    vision = {"embed_dim": SEEN, "hidden_size": HIDDEN, "mlp_ratio": 2, "patch_size": 14}
    video = hf.Qwen2VLVideoProcessor
    _qwen(folder, hf.Qwen2VLConfig, hf.Qwen2VLProcessor, video, patch=14, text=text, vision=vision)


def qwen2_5_vl(folder: Path) -> None:
    text = {"kind": "qwen2_5_vl_text", "rope_parameters": mrope([4, 6, 6])}
    vision = {
        "hidden_size": SEEN,
        "intermediate_size": SEEN_INNER,
        "out_hidden_size": HIDDEN,
        "fullatt_block_indexes": [1],
        "window_size": 56,
    }
    video = hf.Qwen2VLVideoProcessor
    _qwen(
        folder,
        hf.Qwen2_5_VLConfig,
        hf.Qwen2_5_VLProcessor,
        video,
        patch=14,
        text=text,
        vision=vision,
    )


def qwen3_vl(folder: Path) -> None:
    rope = mrope([6, 5, 5], 5e6, mrope_interleaved=True)
    text = {"kind": "qwen3_vl_text", "head_dim": 32, "rope_parameters": rope}
    vision = {
        "hidden_size": SEEN,
        "intermediate_size": SEEN_INNER,
        "out_hidden_size": HIDDEN,
        "deepstack_visual_indexes": [0, 1],
        "num_position_embeddings": 64,
    }
    video = hf.Qwen3VLVideoProcessor
    _qwen(folder, hf.Qwen3VLConfig, hf.Qwen3VLProcessor, video, patch=16, text=text, vision=vision)
