"""GLM-4.1V."""

from __future__ import annotations

from pathlib import Path

import transformers as hf

from tests.support.families.parts import (
    HIDDEN,
    SEEN,
    SEEN_HEADS,
    SEEN_INNER,
    mrope,
    save,
    words,
)


def glm4v(folder: Path) -> None:
    around = ["begin_of_image", "end_of_image", "begin_of_video", "end_of_video", "image", "video"]
    roles = ["<|endoftext|>", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>"]
    special = [*roles, *(f"<|{name}|>" for name in around)]
    known = words(special, end="<|endoftext|>", pad="<|endoftext|>")
    size = {"size": {"shortest_edge": 8 * 28 * 28, "longest_edge": 32 * 28 * 28}}
    processor = hf.Glm4vProcessor(
        hf.Glm4vImageProcessor(**size),
        known.tokenizer,
        hf.Glm4vVideoProcessor(),
        chat_template=(
            "[gMASK]<sop>{% for message in messages %}<|{{ message['role'] }}|>\n"
            "{% for part in message['content'] %}{{ '<|begin_of_image|><|image|><|end_of_image|>' "
            "if part['type'] == 'image' else part['text'] }}{% endfor %}{% endfor %}"
            "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
        ),
    )
    rope = mrope([2, 3, 3], 1e4, partial_rotary_factor=0.5)
    config = hf.Glm4vConfig(
        # Said, because vLLM takes the biases only where it is.
        text_config=known.text("glm4v_text", attention_bias=True, rope_parameters=rope),
        vision_config={
            "depth": 2,
            "hidden_size": SEEN,
            "num_heads": SEEN_HEADS,
            "image_size": 56,
            "out_hidden_size": HIDDEN,
            "intermediate_size": SEEN_INNER,
        },
        image_token_id=known["<|image|>"],
        video_token_id=known["<|video|>"],
        image_start_token_id=known["<|begin_of_image|>"],
        image_end_token_id=known["<|end_of_image|>"],
        video_start_token_id=known["<|begin_of_video|>"],
        video_end_token_id=known["<|end_of_video|>"],
    )
    save(folder, config, processor, [known["<|endoftext|>"], known["<|user|>"]])
