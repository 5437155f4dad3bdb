"""The parts of a model folder besides its weights, loaded as its settings say.

Always: vLLM is given the options that processors are loaded with here (`processor_options`), so
engine, learner and PRM compute the same pixels of a picture. transformers would otherwise take
torchvision's processors wherever torchvision is installed. No code that lies in a folder is run.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from pipeline.errors import BadModel
from pipeline.model_settings import ModelSettings

_log = logging.getLogger("mstar.reading")

# What transformers' loggers say of an option that is meant.
_EXPECTED = "use_fast"
_LOGGERS = ("transformers.models.auto.image_processing_auto", "transformers.processing_utils")


def processor_options(settings: ModelSettings) -> dict[str, Any]:
    """What processors are loaded with.

    transformers 5.19 calls the image backend `backend`, but hands that name to tokenizers and video
    processors too, which fail on it; `use_fast` means the same, reaches image processors only, and
    is warned of as deprecated.
    """
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_unexpected)
    return {"use_fast": settings.image_backend == "torchvision"}


def _unexpected(record: logging.LogRecord) -> bool:
    return _EXPECTED not in record.getMessage()


def load_parts(folder: Path, settings: ModelSettings) -> tuple[Any, Any]:
    """Config and processor of a model folder.

    Raises:
        BadModel: one does not load, or needs what is not installed.
    """
    from transformers import AutoConfig, AutoProcessor
    from transformers.utils import is_torchvision_available

    if settings.image_backend == "torchvision" and not is_torchvision_available():
        raise BadModel("policy.image_backend = torchvision, and torchvision is not installed here")
    options = {"local_files_only": True, **processor_options(settings)}
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        raw = AutoProcessor.from_pretrained(folder, trust_remote_code=False, **options)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        code = own_code(folder)
        reason = (
            f"it brings code of its own ({', '.join(code)}), which is not run, and transformers "
            "has no class for it; take a model of a family that it has (docs/families.md)"
            if code
            else str(error)
        )
        raise BadModel(f"{folder}: its config or processor does not load: {reason}") from error
    found = getattr(getattr(raw, "image_processor", None), "backend", None)
    if found not in (None, settings.image_backend):
        _log.warning(
            "%s: its family has no image processor of %s (policy.image_backend); that of %s is "
            "used, by engine, learner and process reward model alike",
            folder, settings.image_backend, found,
        )  # fmt: skip
    return config, raw


def own_code(folder: Path) -> list[str]:
    """The code that a folder's files name as its own classes (trust_remote_code), as they name it;
    code that lies elsewhere has the repository before it."""
    named: set[str] = set()
    for name in ("config.json", "processor_config.json", "preprocessor_config.json",
                 "tokenizer_config.json"):  # fmt: skip
        file = folder / name
        classes = json.loads(file.read_text("utf-8")).get("auto_map", {}) if file.is_file() else {}
        for value in classes.values() if isinstance(classes, dict) else [classes]:
            listed = value if isinstance(value, list | tuple) else [value]
            named |= {one.rpartition(".")[0] + ".py" for one in listed if isinstance(one, str)}
    return sorted(named)
