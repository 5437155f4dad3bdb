"""A tiny model whose code lies in its folder, as `trust_remote_code` of transformers takes it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from pipeline.model_settings import ModelSettings

CODE = ("configuration_own.py", "modeling_own.py", "processing_own.py")
NATIVE, OWN = "Idefics3ForConditionalGeneration", "OwnForConditionalGeneration"


def own_code_model(
    folder: Path, *, architecture: str = OWN, gain: float = 2.0, processor: bool = True
) -> Path:
    """Write the model, as a person has it.

    architecture: the class that vLLM makes of it, the folder's (`OWN`) or its own (`NATIVE`), which
    knows nothing of the rest. gain: how much stronger pictures are seen. processor: whether it has
    a processor of its own, too.
    """
    from tests.support.families.smolvlm import idefics3

    idefics3(folder)
    for name in CODE:
        shutil.copy(Path(__file__).parent / name, folder)
    models = {
        "AutoConfig": "configuration_own.OwnConfig",
        "AutoModel": "modeling_own.OwnModel",
        "AutoModelForImageTextToText": "modeling_own.OwnForConditionalGeneration",
    }
    change = {"architectures": [architecture], "auto_map": models, "model_type": "own_code"}
    _edit(folder / "config.json", {**change, "picture_gain": gain})
    if processor:
        classes = {"AutoProcessor": "processing_own.OwnProcessor"}
        named = {"processor_class": "OwnProcessor"}
        _edit(folder / "processor_config.json", {"auto_map": classes, **named})
        _edit(folder / "tokenizer_config.json", named)
    return folder


def own_code(folder: Path) -> None:
    """The model, published as one whose code is run; vLLM has a class of its own for it."""
    own_code_model(folder, architecture=NATIVE, gain=1.0, processor=False)
    for name, data in ModelSettings(trust_remote_code=True).files().items():
        (folder / name).write_bytes(data)


def _edit(file: Path, change: dict[str, Any]) -> None:
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | change, indent=2), "utf-8")
