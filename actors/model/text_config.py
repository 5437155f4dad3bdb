"""What a model folder's config alone says of its language model: loads no library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ATTENTION = ("attention", "full_attention", "sliding_attention", "chunked_attention")
"""How configs call the layers whose state is the keys and values of single tokens."""


def most_positions(folder: Path) -> int | None:
    """Tokens that the model in a folder is made for (prompt, image tokens and response together); a
    stretched rotary embedding reads further. None where its config does not say, or is not there.
    """
    text = _text_config(folder)
    most = text.get("max_position_embeddings")
    stretched = text.get("rope_scaling") or text.get("rope_parameters") or {}
    factor = max(1.0, float(stretched.get("factor") or 1.0))
    return None if most is None else int(most * factor)


def is_recurrent(folder: Path) -> bool:
    """Whether it has layers that carry a state from token to token (Qwen3.5, MiniCPM-V 4.6)."""
    text = _text_config(folder)
    layers = text.get("layer_types") or text.get("layers_block_type") or []
    return any(layer not in ATTENTION for layer in layers)


def _text_config(folder: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}  # what is wrong with the folder is said where the folder is checked
    text: dict[str, Any] = config.get("text_config", config)
    return text
