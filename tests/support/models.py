"""Tiny policies for tests: the digits architecture with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.torch import load_file, save_file

from jobs.digits.base_model import build_base
from pipeline.hashing import sha256_hex


def make_policy(folder: Path, seed: int) -> Path:
    """A complete policy folder; equal seeds give equal weights, all seeds one processor."""
    build_base(folder, 0)
    file = folder / "model.safetensors"
    tensors = load_file(file)
    rng = np.random.default_rng(seed)
    for name, tensor in sorted(tensors.items()):
        if tensor.dim() > 1:
            # Large enough that every layer, and the image, moves the distribution.
            size = 0.1 if name.endswith("embed_tokens.weight") else 1.5 * tensor.shape[-1] ** -0.5
            noise = rng.normal(0.0, size, tensor.shape).astype(np.float32)
            tensors[name] = tensor.new_tensor(noise)
    save_file(tensors, file, metadata={"format": "pt"})
    return folder


def change_config(folder: Path, change: dict[str, Any], text: dict[str, Any]) -> None:
    file = folder / "config.json"
    config = json.loads(file.read_text("utf-8"))
    file.write_text(json.dumps({**config, **change, "text_config": config["text_config"] | text}))


def untied(folder: Path) -> Path:
    """The policy there says that its input embedding is not what gives tokens their logits."""
    no = {"tie_word_embeddings": False}
    change_config(folder, no, no)
    return folder


def make_images(count: int, seed: int = 0) -> dict[str, bytes]:
    """PNG files of noise by content hash."""
    import io

    rng = np.random.default_rng(seed)
    made = {}
    for _ in range(count):
        pixels = rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "PNG")
        made[sha256_hex(stream.getvalue())] = stream.getvalue()
    return made
