"""Randomly initialised vision-language models of any size, and rows to train them on.

Tokenizer, processor and chat template are those of assets/digits-base; only the sizes differ. The
architecture is Idefics3's (SmolVLM's too): a SigLIP-style tower, a connector, a Llama.
"""

from __future__ import annotations

import io
import json
import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from actors.model.images import ImageCache
from actors.model.processor import load_processor
from pipeline.hashing import sha256_hex
from pipeline.prompts import prompt_hash
from pipeline.training.rows import TrainRow

BASE = Path(__file__).resolve().parents[2] / "assets" / "digits-base"
IMAGES, SIDE = 6, 64  # pictures of noise, and their pixels on a side


@dataclass(frozen=True)
class Sizes:
    """Of the language model, then of the vision tower; side: pixels of an image; the connector
    merges `merge` x `merge` patches into one token."""

    hidden: int
    layers: int
    heads: int
    intermediate: int
    vocabulary: int
    positions: int
    vision_hidden: int
    vision_layers: int
    vision_heads: int
    vision_intermediate: int
    side: int
    patch: int
    merge: int

    @property
    def image_tokens(self) -> int:
        """Tokens that an image becomes."""
        return (self.side // self.patch // self.merge) ** 2


SMALL = Sizes(512, 4, 8, 1408, 448, 512, 256, 3, 4, 704, 32, 8, 2)
TOY = Sizes(64, 2, 2, 128, 448, 512, 32, 1, 2, 64, 32, 8, 2)

TWO_BILLION = Sizes(2048, 24, 32, 8192, 49280, 4096, 1152, 27, 16, 4304, 378, 14, 3)
"""The sizes of SmolVLM2-2.2B: 81 tokens an image."""


def make_model(folder: Path, sizes: Sizes, dtype: torch.dtype, device: str, seed: int = 0) -> Path:
    """A complete model folder with random weights."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    shutil.copytree(BASE, folder, ignore=shutil.ignore_patterns("*.safetensors", "README.md"))
    _edit(folder / "config.json", _config(sizes))
    edge = {"longest_edge": sizes.side}
    image_processor = {"size": edge, "max_image_size": edge}
    _edit(
        folder / "processor_config.json",
        {"image_processor": image_processor, "image_seq_len": sizes.image_tokens},
    )
    _edit(folder / "tokenizer_config.json", {"model_max_length": sizes.positions})
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    torch.manual_seed(seed)
    with torch.device(device):
        model = AutoModelForImageTextToText.from_config(config, dtype=dtype)
        for name, parameter in sorted(model.named_parameters()):
            if "embed" in name:
                torch.nn.init.normal_(parameter, std=0.05)
            elif parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    model.save_pretrained(folder)
    return folder


def _config(sizes: Sizes) -> dict[str, Any]:
    return {
        "scale_factor": sizes.merge,
        "text_config": {
            "hidden_size": sizes.hidden,
            "num_hidden_layers": sizes.layers,
            "num_attention_heads": sizes.heads,
            "num_key_value_heads": sizes.heads,
            "head_dim": sizes.hidden // sizes.heads,
            "intermediate_size": sizes.intermediate,
            "vocab_size": sizes.vocabulary,
            "max_position_embeddings": sizes.positions,
        },
        "vision_config": {
            "hidden_size": sizes.vision_hidden,
            "num_hidden_layers": sizes.vision_layers,
            "num_attention_heads": sizes.vision_heads,
            "intermediate_size": sizes.vision_intermediate,
            "image_size": sizes.side,
            "patch_size": sizes.patch,
        },
    }


def _edit(path: Path, change: dict[str, Any]) -> None:
    """Change keys of a JSON file, those of inner objects one by one."""
    content = json.loads(path.read_text("utf-8"))
    for key, value in change.items():
        inner = isinstance(value, dict) and isinstance(content.get(key), dict)
        content[key] = {**content[key], **value} if inner else value
    path.write_text(json.dumps(content, indent=2) + "\n", "utf-8")


@cache
def pictures() -> dict[str, bytes]:
    """PNG files of noise by content hash."""
    from PIL import Image

    noise, made = random.Random(0), {}
    for _ in range(IMAGES):
        stream = io.BytesIO()
        Image.frombytes("RGB", (SIDE, SIDE), noise.randbytes(3 * SIDE * SIDE)).save(stream, "PNG")
        made[sha256_hex(stream.getvalue())] = stream.getvalue()
    return made


def picture(sha: str) -> bytes:
    """The bytes of one of them."""
    return pictures()[sha]


def make_rows(
    folder: Path, count: int, response: int, *, images: Sequence[int] = (0, 1, 2), words: int = 4
) -> list[TrainRow]:
    """Rows with random responses of some `response` tokens, their prompts with `images` pictures in
    turn and `words` times three words."""
    processor, opened = load_processor(folder), ImageCache(picture)
    names, drawn = sorted(pictures()), random.Random(1)
    allowed = sorted(set(range(400)) - set(processor.forbidden))
    rows = []
    for number in range(count):
        shown = tuple(names[(number + i) % len(names)] for i in range(images[number % len(images)]))
        prompt = processor.prompt("What is " + "one more than " * words + "4?", len(shown))
        ids = processor.input_ids(prompt, shown, opened.get)
        length = drawn.randint(max(3, response // 2), response)
        sampled = (*drawn.choices(allowed, k=length), processor.end_ids[0])
        rows.append(TrainRow(prompt, shown, len(ids), prompt_hash(ids), sampled))
    return rows


def with_steps(rows: Sequence[TrainRow]) -> list[TrainRow]:
    """The rows with two steps each, worth 1 where they end in an even token."""
    made = []
    for row in rows:
        last = len(row.token_ids_T) - 1
        ends = tuple(sorted({max(1, last // 2), last}))
        targets = tuple(float(row.token_ids_T[end - 1] % 2 == 0) for end in ends)
        made.append(replace(row, step_ends_S=ends, targets_S=targets))
    return made
