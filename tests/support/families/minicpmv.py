"""MiniCPM-V 4.6."""

from __future__ import annotations

from pathlib import Path

from pipeline.model_settings import ModelSettings
from tests.support.families.parts import (
    CHAT_TEMPLATE,
    QWEN_WORDS,
    mrope,
    save,
    seen,
    words,
)


def minicpmv(folder: Path) -> None:
    from transformers.models.minicpmv4_6 import (
        MiniCPMV4_6Config,
        MiniCPMV4_6ImageProcessor,
        MiniCPMV4_6Processor,
        MiniCPMV4_6VideoProcessor,
    )

    named = {
        "image_token": "<|image_pad|>",
        "video_token": "<|video_pad|>",
        "image_start_token": "<image>",
        "image_end_token": "</image>",
        "slice_start_token": "<slice>",
        "slice_end_token": "</slice>",
        "image_id_start_token": "<image_id>",
        "image_id_end_token": "</image_id>",
    }
    special = list(dict.fromkeys([*QWEN_WORDS, *named.values()]))
    known = words(special, end="<|im_end|>", pad="<|endoftext|>", **named)
    size = {"scale_resolution": 112, "patch_size": 14, "slice_mode": True}
    processor = MiniCPMV4_6Processor(
        image_processor=MiniCPMV4_6ImageProcessor(**size),
        tokenizer=known.tokenizer,
        video_processor=MiniCPMV4_6VideoProcessor(**size),
        chat_template=CHAT_TEMPLATE.replace("IMAGE", "<|image_pad|>"),
    )
    text = known.text(
        "qwen3_5_text",
        head_dim=32,
        linear_key_head_dim=128,
        linear_value_head_dim=128,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        layer_types=["linear_attention", "full_attention"],
        rope_parameters=mrope([2, 1, 1], mrope_interleaved=True, partial_rotary_factor=0.25),
        tie_word_embeddings=True,
    )
    config = MiniCPMV4_6Config(
        text_config=text,
        vision_config={**seen("minicpmv4_6_vision", 112), "patch_size": 14},
        insert_layer_id=0,
        image_size=112,
        image_token_id=known["<|image_pad|>"],
        video_token_id=known["<|video_pad|>"],
        tie_word_embeddings=True,
    )
    save(folder, config, processor, [known["<|im_end|>"], known["<|endoftext|>"]])
    # vLLM 0.32 does not take what its PIL processor makes.
    for name, data in ModelSettings(image_backend="torchvision").files().items():
        (folder / name).write_bytes(data)
