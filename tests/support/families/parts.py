"""What the tiny models of families are made of: tokens, towers, language models, weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

HIDDEN, INNER, LAYERS, HEADS = 128, 256, 2, 4
SEEN, SEEN_INNER, SEEN_HEADS = 64, 128, 2
"""The vision tower's hidden size, that of its MLP, and its heads."""
CORPUS = "How many of these are red? Think step by step.\n\n12 = 3 x 4, so there are 7.\n\n# Answer"
NORMAL = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}"
    "{{ 'IMAGE' if part['type'] == 'image' else part['text'] }}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CHAT_WORDS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
QWEN_WORDS = [*CHAT_WORDS, "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]


@dataclass(frozen=True)
class Words:
    """A family's tokenizer."""

    tokenizer: Any

    def __getitem__(self, token: str) -> int:
        number = self.tokenizer.convert_tokens_to_ids(token)
        assert isinstance(number, int), token
        return number

    def text(self, kind: str, **more: Any) -> dict[str, Any]:
        """The config of a language model of this kind for these tokens."""
        return {
            "model_type": kind,
            "vocab_size": -(-len(self.tokenizer) // 64) * 64,
            "hidden_size": HIDDEN,
            "intermediate_size": INNER,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "num_key_value_heads": 2,
            "max_position_embeddings": 2048,
            "pad_token_id": self.tokenizer.pad_token_id,
            "bos_token_id": self.tokenizer.bos_token_id,
            "eos_token_id": self.tokenizer.eos_token_id,
            **more,
        }


@cache
def _byte_pairs() -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([CORPUS] * 5, trainer)
    return str(tokenizer.to_str())


def words(
    special: Sequence[str],
    *,
    end: str,
    pad: str,
    start: str | None = None,
    plain: Sequence[str] = (),
    **named: str,
) -> Words:
    """Byte pairs and these special tokens. start: written before every text; plain: tokens of their
    own that are not special; named: tokens that the family's processor asks its tokenizer for."""
    raw = Tokenizer.from_str(_byte_pairs())
    raw.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    raw.add_tokens([AddedToken(token, normalized=False) for token in plain])
    if start is not None:
        raw.post_processor = processors.TemplateProcessing(
            single=f"{start} $A",
            pair=f"{start} $A {start} $B",
            special_tokens=[(start, raw.token_to_id(start))],
        )
    return Words(
        hf.PreTrainedTokenizerFast(
            tokenizer_object=raw,
            bos_token=start,
            eos_token=end,
            pad_token=pad,
            padding_side="left",
            **named,
        )
    )


def seen(kind: str, size: int = 32, **more: Any) -> dict[str, Any]:
    """The config of a vision tower of this kind: patches of 8 of images of `size`."""
    return {
        "model_type": kind,
        "hidden_size": SEEN,
        "intermediate_size": SEEN_INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": SEEN_HEADS,
        "image_size": size,
        "patch_size": 8,
        **more,
    }


def _weights(model: Any) -> None:
    """Such that every layer, and the image, moves the distribution."""
    torch.manual_seed(0)
    for name, weight in model.named_parameters():
        if weight.dim() > 1:
            embeds = "embed_tokens" in name or "lm_head" in name
            places = "position_embedding" in name or "pos_embed" in name
            size = 0.1 if embeds else 0.2 if places else weight[0].numel() ** -0.5
            torch.nn.init.normal_(weight, std=size)


def save(folder: Path, config: Any, processor: Any, ends: int | list[int]) -> None:
    model = hf.AutoModelForImageTextToText.from_config(config)
    _weights(model)
    model.generation_config.eos_token_id = ends
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    model.generation_config.bos_token_id = None
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def as_published(folder: Path) -> None:
    """Names of the tower's weights as checkpoints on the hub have them: transformers 5 saves CLIP's
    and SigLIP's without `vision_model.`, and vLLM does not know these."""
    file = folder / "model.safetensors"
    old, new = "vision_tower.", "vision_tower.vision_model."
    tensors = {name.replace(old, new): tensor for name, tensor in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})


def mrope(sections: list[int], theta: float = 1e6, **more: Any) -> dict[str, Any]:
    """Parameters of rotary positions in several sections."""
    return {"rope_type": "default", "rope_theta": theta, "mrope_section": sections, **more}
