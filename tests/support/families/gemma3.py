"""Gemma 3."""

from __future__ import annotations

from pathlib import Path

import transformers as hf

from tests.support.families.parts import (
    as_published,
    save,
    seen,
    words,
)


def gemma3(folder: Path) -> None:
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

    around = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
    known = words(
        [
            "<pad>",
            "<eos>",
            "<bos>",
            "<start_of_turn>",
            "<end_of_turn>",
            *around.values(),
            "<image_soft_token>",
        ],
        start="<bos>",
        end="<eos>",
        pad="<pad>",
        plain=["\n", "\n\n", "\n\n\n", "\n\n\n\n"],
        image_token="<image_soft_token>",
        **around,
    )
    images = Gemma3ImageProcessorPil(size={"height": 32, "width": 32}, image_seq_length=4)
    processor = hf.Gemma3Processor(
        images,
        known.tokenizer,
        image_seq_length=4,
        chat_template=(
            "{{ bos_token }}{% for message in messages %}<start_of_turn>{{ message['role'] }}\n"
            "{% for part in message['content'] %}"
            "{{ '<start_of_image>' if part['type'] == 'image' else part['text'] }}{% endfor %}"
            "<end_of_turn>\n{% endfor %}"
            "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
        ),
    )
    text = known.text(
        "gemma3_text",
        head_dim=32,
        query_pre_attn_scalar=32,
        sliding_window=64,
        layer_types=["sliding_attention", "full_attention"],
    )
    config = hf.Gemma3Config(
        text_config=text,
        vision_config=seen("siglip_vision_model", vision_use_head=False),
        mm_tokens_per_image=4,
        boi_token_index=known["<start_of_image>"],
        eoi_token_index=known["<end_of_image>"],
        image_token_index=known["<image_soft_token>"],
    )
    save(folder, config, processor, [known["<eos>"], known["<end_of_turn>"]])
    as_published(folder)
