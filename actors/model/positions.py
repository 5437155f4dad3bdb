"""How many tokens a model folder's text model reads, from its config alone: loads no library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def most_positions(folder: Path) -> int | None:
    """Tokens that the model in a folder is made for (prompt, image tokens and response together); a
    stretched rotary embedding reads further. None where its config does not say, or is not there.
    """
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None  # what is wrong with the folder is said where the folder is checked
    text = config.get("text_config", config)
    most = text.get("max_position_embeddings")
    stretched = text.get("rope_scaling") or text.get("rope_parameters") or {}
    factor = max(1.0, float(stretched.get("factor") or 1.0))
    return None if most is None else int(most * factor)
