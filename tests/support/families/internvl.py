"""InternVL."""

from __future__ import annotations

from pathlib import Path

import transformers as hf

from tests.support.families.parts import (
    CHAT_TEMPLATE,
    CHAT_WORDS,
    save,
    seen,
    words,
)


def internvl(folder: Path) -> None:
    from transformers.models.got_ocr2.image_processing_got_ocr2 import GotOcr2ImageProcessor

    known = words(
        [*CHAT_WORDS, "<img>", "</img>", "<IMG_CONTEXT>", "<box>", "</box>", "<video>"],
        end="<|im_end|>",
        pad="<|endoftext|>",
        start_image_token="<img>",
        end_image_token="</img>",
        context_image_token="<IMG_CONTEXT>",
        video_token="<video>",
    )
    size = {"height": 32, "width": 32}
    processor = hf.InternVLProcessor(
        GotOcr2ImageProcessor(size=size, crop_to_patches=True, min_patches=1, max_patches=4),
        known.tokenizer,
        hf.InternVLVideoProcessor(size=size),
        image_seq_length=4,
        chat_template=CHAT_TEMPLATE.replace("IMAGE", "<IMG_CONTEXT>\\n"),
    )
    config = hf.InternVLConfig(
        text_config=known.text("qwen2"),
        vision_config={
            **seen("internvl_vision", attention_bias=True),
            "image_size": [32, 32],
            "patch_size": [8, 8],
        },
        image_token_id=known["<IMG_CONTEXT>"],
        image_seq_length=4,
        downsample_ratio=0.5,
        tie_word_embeddings=False,
    )
    save(folder, config, processor, known["<|im_end|>"])
