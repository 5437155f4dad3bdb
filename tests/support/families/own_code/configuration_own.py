"""The config of a model whose code lies in its folder."""

from __future__ import annotations

from transformers import Idefics3Config


class OwnConfig(Idefics3Config):
    """Idefics3's, and how much stronger pictures are seen."""

    model_type = "own_code"
    picture_gain: float = 1.0
