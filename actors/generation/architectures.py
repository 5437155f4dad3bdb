"""Whether vLLM has a class of its own for a policy's model, told before any engine starts.

For a model that it has none for, vLLM takes transformers' and fails at its start or computes what
nobody compared. Importing vLLM takes seconds and threads, so another process is asked, and only
about models that are not known to be served.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Collection
from pathlib import Path

from pipeline.errors import BadModel

SERVED = frozenset(
    f"{name}ForConditionalGeneration"
    for name in (
        "Idefics3", "SmolVLM", "Qwen2VL", "Qwen2_5_VL", "Qwen3VL", "InternVL", "Glm4v", "Llava",
        "LlavaOnevision", "Mistral3", "Gemma3", "MiniCPMV4_6",
    )
)  # fmt: skip
"""Those of the families that are tested (docs/families.md)."""

_LIST = """
from vllm.model_executor.models.registry import ModelRegistry
print("\\n".join(["served:", *ModelRegistry.get_supported_archs()]))
"""


def installed_architectures() -> frozenset[str] | None:
    """The model classes of the vLLM of this environment; None: it has none that can be imported."""
    asked = [sys.executable, "-c", _LIST]
    listed = subprocess.run(asked, capture_output=True, text=True, check=False).stdout
    _, known, names = listed.partition("served:\n")
    return frozenset(names.split()) if known else None


def check_architecture(
    folder: Path, installed: Callable[[], Collection[str] | None] = installed_architectures
) -> None:
    """Refuse a policy that this vLLM has no class for. Where none can be imported (the engines'
    nodes may have another environment) nothing is known, and nothing is refused.

    Raises:
        BadModel: naming the folder and the model's class.
    """
    config = json.loads((folder / "config.json").read_text("utf-8"))
    named = config.get("architectures") or []
    if not named or "auto_map" in config or not SERVED.isdisjoint(named):
        return
    served = installed()
    if served is not None and set(named).isdisjoint(served):
        raise BadModel(
            f"{folder} cannot be sampled from: the installed vLLM has no class for "
            f"{', '.join(named)}; docs/families.md has the families that are tested"
        )
