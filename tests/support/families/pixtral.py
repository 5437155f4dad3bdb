"""Mistral3 and Pixtral."""

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

PIXTRAL_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}[INST]{% for part in message['content'] %}"
    "{{ '[IMG]' if part['type'] == 'image' else part['text'] }}{% endfor %}[/INST]{% endfor %}"
)
PIXTRAL_VISION = {
    **seen("pixtral", 64),
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
}


def _pixtral(merge: int) -> tuple[Words, Any]:
    from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil

    special = ["<s>", "</s>", "[INST]", "[/INST]", "<pad>", "[IMG]", "[IMG_BREAK]", "[IMG_END]"]
    known = words(special, start="<s>", end="</s>", pad="<pad>")
    side = {"height": 8, "width": 8}
    images = PixtralImageProcessorPil(size={"longest_edge": 64}, patch_size=side)
    processor = hf.PixtralProcessor(
        images,
        known.tokenizer,
        patch_size=8,
        spatial_merge_size=merge,
        chat_template=PIXTRAL_TEMPLATE,
    )
    return known, processor


def mistral3(folder: Path) -> None:
    known, processor = _pixtral(2)
    config = hf.Mistral3Config(
        text_config=known.text("mistral", head_dim=32, sliding_window=None),
        vision_config=PIXTRAL_VISION,
        image_token_index=known["[IMG]"],
        spatial_merge_size=2,
        tie_word_embeddings=False,
    )
    save(folder, config, processor, known["</s>"])


def pixtral(folder: Path) -> None:
    known, processor = _pixtral(1)
    config = hf.LlavaConfig(
        text_config=known.text("mistral", head_dim=32, sliding_window=None),
        vision_config=PIXTRAL_VISION,
        image_token_index=known["[IMG]"],
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_seq_length=1,
    )
    save(folder, config, processor, known["</s>"])
