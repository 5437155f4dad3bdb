"""Mllama (Llama 3.2 Vision), which vLLM has no class for."""

from __future__ import annotations

from pathlib import Path

import transformers as hf

from tests.support.families.parts import (
    SEEN,
    SEEN_HEADS,
    SEEN_INNER,
    save,
    words,
)


def mllama(folder: Path) -> None:
    from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil

    special = ["<|begin_of_text|>", "<|eot_id|>", "<|finetune_right_pad_id|>", "<|image|>"]
    known = words(special, start=special[0], end=special[1], pad=special[2])
    processor = hf.MllamaProcessor(
        MllamaImageProcessorPil(size={"height": 32, "width": 32}, max_image_tiles=4),
        known.tokenizer,
        chat_template=(
            "{{ bos_token }}{% for message in messages %}{{ message['role'] }}: "
            "{% for part in message['content'] %}"
            "{{ '<|image|>' if part['type'] == 'image' else part['text'] }}{% endfor %}<|eot_id|>"
            "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
        ),
    )
    rope = {"rope_type": "default", "rope_theta": 5e5}
    text = known.text("mllama_text_model", cross_attention_layers=[1], rope_parameters=rope)
    config = hf.MllamaConfig(
        text_config={**text, "num_hidden_layers": 3},
        vision_config={
            "hidden_size": SEEN,
            "intermediate_size": SEEN_INNER,
            "num_hidden_layers": 2,
            "num_global_layers": 1,
            "attention_heads": SEEN_HEADS,
            "image_size": 32,
            "patch_size": 8,
            "intermediate_layers_indices": [0, 1],
            "vision_output_dim": SEEN * 3,
            "max_num_tiles": 4,
            "supported_aspect_ratios": [
                [1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [2, 2], [3, 1], [4, 1],
            ],
        },
        image_token_index=known["<|image|>"],
    )  # fmt: skip
    save(folder, config, processor, known["<|eot_id|>"])
