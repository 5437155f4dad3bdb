"""A section of the configuration, and the kinds of settings in it (`pipeline.config.schema`)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

FREE: dict[str, Any] = {"resume": "free"}
SAME_CONTENT: dict[str, Any] = {
    "resume": "noted",
    "note": "what lies there must have equal content",
}
ADDED: dict[str, Any] = {"added": True}
"""A setting that earlier runs did not have: by default it changes no hash of a configuration."""
NUMERICS: dict[str, Any] = {"resume": "noted", "note": "the result is no longer bit-identical"}

Precision = Literal["float32", "bfloat16", "float16"]
Share = Annotated[float, Field(gt=0.0, le=1.0)]
Temperature = Annotated[float, Field(gt=0.0, le=5.0)]


class Section(BaseModel):
    """One section: no unknown keys, immutable, field docstrings become descriptions."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )
