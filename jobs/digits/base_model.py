"""The tiny vision-language model of the `digits` task: architecture, tokenizer, processor.

A standard Idefics3 (SigLIP-style vision tower, pixel-shuffle connector, Llama text model) in the
folder layout that `from_pretrained` and vLLM take. A picture of 32 x 32 pixels becomes four image
tokens, one for each cell of a grid.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.tasks.digits.chains import explain
from pipeline.tasks.digits.families import FAMILIES, OOD_FAMILIES, Maker
from pipeline.tasks.digits.lessons import asked
from pipeline.tasks.digits.scenes import CANVAS, GRID, ROW, Layout, draw_scene, scans_by_split

if TYPE_CHECKING:
    from transformers import Idefics3ForConditionalGeneration, Idefics3Processor

PATCH = 8  # pixels
SCALE_FACTOR = 2  # patches merged on each side by the connector
IMAGE_TOKENS = (CANVAS // PATCH // SCALE_FACTOR) ** 2
VOCABULARY = 448
MAX_POSITIONS = 512  # tokens

PAD, END, USER, ASSISTANT = "<pad>", "<end_of_utterance>", "<|user|>", "<|assistant|>"

IMAGE, AROUND_IMAGE, GLOBAL_IMAGE = "<image>", "<fake_token_around_image>", "<global-img>"

SPECIAL = [PAD, END, USER, ASSISTANT, IMAGE, AROUND_IMAGE, GLOBAL_IMAGE]

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|user|>' if message['role'] == 'user' else '<|assistant|>' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<image>' }}{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{{ '<end_of_utterance>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

# Digits stand alone, words take the space before them, line breaks stay together: a step always
# ends in one token, and numbers are spelled digit by digit.
SPLIT = r"\n+| ?\d| ?[A-Za-z]+| ?[^\sA-Za-z\d]|\s"


def corpus(seed: int, n: int = 400) -> list[str]:
    """Questions and explanations of every family, to train the tokenizer on."""
    rng = random.Random(f"digits-corpus-{seed}")
    pool = scans_by_split(seed)["base"]
    texts = []
    makers: list[tuple[Layout, Maker]] = [(GRID, make) for make in FAMILIES.values()]
    makers += [(ROW, make) for make in OOD_FAMILIES.values()]
    for layout, make in makers:
        for _ in range(n // 4):
            scene = draw_scene(layout, pool, rng)
            question = make(scene, rng)
            texts.append(asked(question))
            texts.append(f"The answer is {question.answer}. Explain step by step.")
            if layout is GRID:
                texts.append(explain(question, scene, rng))
    return texts


def build_tokenizer(texts: list[str]):  # type: ignore[no-untyped-def]
    """A byte-level BPE tokenizer of `VOCABULARY` entries; it can spell any text."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=SPECIAL[2:],
        model_max_length=MAX_POSITIONS,
        padding_side="left",
    )


def build_processor(seed: int) -> Idefics3Processor:
    from transformers import Idefics3Processor
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

    images = Idefics3ImageProcessorPil(
        size={"longest_edge": CANVAS},
        max_image_size={"longest_edge": CANVAS},
        do_image_splitting=False,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    return Idefics3Processor(
        images,
        build_tokenizer(corpus(seed)),
        image_seq_len=IMAGE_TOKENS,
        chat_template=CHAT_TEMPLATE,
    )


def build_model(processor: Idefics3Processor, seed: int) -> Idefics3ForConditionalGeneration:
    import torch
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration

    tokenizer = processor.tokenizer
    torch.manual_seed(seed)
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = Idefics3Config(
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE),
        scale_factor=SCALE_FACTOR,
        tie_word_embeddings=True,
        **ids,
        vision_config={
            "hidden_size": 96,
            "intermediate_size": 256,
            "num_hidden_layers": 3,
            "num_attention_heads": 3,
            "image_size": CANVAS,
            "patch_size": PATCH,
        },
        text_config={
            "model_type": "llama",
            "vocab_size": len(tokenizer),
            "hidden_size": 128,
            "intermediate_size": 352,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "max_position_embeddings": MAX_POSITIONS,
            "tie_word_embeddings": True,
            **ids,
        },
    )
    model = Idefics3ForConditionalGeneration(config)
    _scale_initial_weights(model)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


def _scale_initial_weights(model: Idefics3ForConditionalGeneration) -> None:
    """Draw matrices with unit gain: the family's 0.02 is far too small for a width of 128."""
    import torch

    for name, parameter in model.named_parameters():
        if "embed_tokens" in name:
            torch.nn.init.normal_(parameter, std=0.05)
        elif parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)


def build_base(folder: Path, seed: int = 0) -> None:
    """Write a complete, randomly initialised model folder."""
    processor = build_processor(seed)
    build_model(processor, seed).save_pretrained(folder, safe_serialization=True)
    processor.save_pretrained(folder)
