"""Idefics3 and SmolVLM2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers as hf

from tests.support.families.parts import (
    Words,
    save,
    seen,
    words,
)

SMOL_TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}"
    "{{ ':' if message['content'][0]['type'] == 'image' else ': ' }}"
    "{% for part in message['content'] %}"
    "{{ '<image>' if part['type'] == 'image' else part['text'] }}{% endfor %}<end_of_utterance>\n"
    "{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
SMOL_SIZE: dict[str, Any] = {"size": {"longest_edge": 128}, "max_image_size": {"longest_edge": 64}}


def _smol_words() -> Words:
    grid = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    rest = ["<global-img>", "<fake_token_around_image>", "<image>", "<end_of_utterance>"]
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *grid, *rest]
    return words(special, start="<|im_start|>", end="<end_of_utterance>", pad="<|im_end|>")


def _smol_config(kind: Any, tower: str, known: Words) -> Any:
    return kind(
        image_token_id=known["<image>"],
        scale_factor=4,
        tie_word_embeddings=False,
        pad_token_id=known.tokenizer.pad_token_id,
        text_config=known.text("llama"),
        vision_config=seen(tower, 64),
    )


def idefics3(folder: Path) -> None:
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

    known = _smol_words()
    images = Idefics3ImageProcessorPil(**SMOL_SIZE, do_image_splitting=True)
    processor = hf.Idefics3Processor(
        images, known.tokenizer, image_seq_len=4, chat_template=SMOL_TEMPLATE
    )
    config = _smol_config(hf.Idefics3Config, "idefics3_vision", known)
    save(folder, config, processor, known["<end_of_utterance>"])


def smolvlm2(folder: Path) -> None:
    known = _smol_words()
    images = hf.SmolVLMImageProcessor(**SMOL_SIZE, do_image_splitting=True)
    frames = {"fps": 1, "max_frames": 4, "video_size": {"longest_edge": 64}}
    videos = hf.SmolVLMVideoProcessor(**SMOL_SIZE, video_sampling=frames)
    processor = hf.SmolVLMProcessor(
        images, known.tokenizer, videos, image_seq_len=4, chat_template=SMOL_TEMPLATE
    )
    config = _smol_config(hf.SmolVLMConfig, "smolvlm_vision", known)
    save(folder, config, processor, known["<end_of_utterance>"])
