"""LLaVA and LLaVA-OneVision."""

from __future__ import annotations

from pathlib import Path

import transformers as hf

from tests.support.families.parts import (
    CHAT_TEMPLATE,
    CHAT_WORDS,
    SEEN,
    as_published,
    save,
    seen,
    words,
)

LLAVA_TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() }}: "
    "{% for part in message['content'] %}"
    "{{ '<image>\n' if part['type'] == 'image' else part['text'] + ' ' }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def llava(folder: Path) -> None:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    known = words(["<s>", "</s>", "<image>", "<pad>"], start="<s>", end="</s>", pad="<pad>")
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    processor = hf.LlavaProcessor(
        CLIPImageProcessorPil(**size),
        known.tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=LLAVA_TEMPLATE,
    )
    config = hf.LlavaConfig(
        text_config=known.text("llama"),
        vision_config=seen("clip_vision_model", projection_dim=SEEN),
        image_token_index=known["<image>"],
        image_seq_length=16,
    )
    save(folder, config, processor, known["</s>"])
    as_published(folder)


def llava_onevision(folder: Path) -> None:
    known = words([*CHAT_WORDS, "<image>", "<video>"], end="<|im_end|>", pad="<|endoftext|>")
    pins = [[height, width] for height in (32, 64, 96) for width in (32, 64, 96)]
    size = {"height": 32, "width": 32}
    processor = hf.LlavaOnevisionProcessor(
        hf.LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=pins),
        known.tokenizer,
        hf.LlavaOnevisionVideoProcessor(size=size),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        vision_aspect_ratio="anyres_max_9",
        chat_template=CHAT_TEMPLATE.replace("IMAGE", "<image>"),
    )
    config = hf.LlavaOnevisionConfig(
        text_config=known.text("qwen2"),
        vision_config=seen("siglip_vision_model", vision_use_head=False),
        image_token_index=known["<image>"],
        video_token_index=known["<video>"],
        image_grid_pinpoints=pins,
        tie_word_embeddings=True,
    )
    save(folder, config, processor, known["<|im_end|>"])
    as_published(folder)
