"""A model whose code lies in its folder."""

from __future__ import annotations

from typing import Any

from transformers import Idefics3ForConditionalGeneration, Idefics3Model

from .configuration_own import OwnConfig


class OwnModel(Idefics3Model):
    """Idefics3's, which sees pictures stronger."""

    config_class = OwnConfig
    config: OwnConfig

    def get_image_features(self, *given: Any, **named: Any) -> Any:
        """As Idefics3's, multiplied by the config's gain."""
        seen = super().get_image_features(*given, **named)
        seen.pooler_output = seen.pooler_output * self.config.picture_gain
        return seen


class OwnForConditionalGeneration(Idefics3ForConditionalGeneration):
    """Idefics3's, over a model that sees pictures stronger."""

    config_class = OwnConfig
    config: OwnConfig

    def __init__(self, config: OwnConfig) -> None:
        super().__init__(config)
        self.model = OwnModel(config)
        self.post_init()
