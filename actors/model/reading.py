"""The parts of a model folder besides its weights, loaded as its settings say.

Always: vLLM is given the options that processors are loaded with here (`processor_options`), so
engine, learner and PRM compute the same pixels of a picture. transformers would otherwise take
torchvision's processors wherever torchvision is installed.
"""

from __future__ import annotations

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
    read: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        config = AutoConfig.from_pretrained(folder, **read)
        raw = AutoProcessor.from_pretrained(folder, **read, **processor_options(settings))
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise BadModel(
            f"{folder}: its config or processor does not load ({error}); models that bring code of "
            "their own (trust_remote_code) are not supported"
        ) from error
    found = getattr(getattr(raw, "image_processor", None), "backend", None)
    if found not in (None, settings.image_backend):
        _log.warning(
            "%s: its family has no image processor of %s (policy.image_backend); that of %s is "
            "used, by engine, learner and process reward model alike",
            folder, settings.image_backend, found,
        )  # fmt: skip
    return config, raw
