"""The parts of a model folder besides its weights, loaded as its settings say.

Always: vLLM is given the options that processors are loaded with here (`processor_options`), so
engine, learner and PRM compute the same pixels of a picture. transformers would otherwise take
torchvision's processors wherever torchvision is installed. Code that lies in a folder is run only
where its settings say so (`ModelSettings.trust_remote_code`), and every load says whether.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.errors import BadModel
from pipeline.model_settings import (
    FILE,
    ModelSettings,
    check_code,
    code_files,
    not_trusted,
    own_code,
)
from pipeline.storage.tree_cache import WEIGHTS
from pipeline.storage.trees import file_sha256

_log = logging.getLogger("mstar.reading")

# What transformers' loggers say of an option that is meant.
_EXPECTED = "use_fast"
_UNLOADABLE = (OSError, ValueError, KeyError, TypeError, ImportError, AttributeError, SyntaxError)
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


@contextmanager
def as_published(folder: Path, settings: ModelSettings) -> Iterator[Path]:
    """A model folder as it is once it is published, without weights: itself, unless files of it
    are published otherwise.

    Raises:
        BadModel: as `ModelSettings.besides`.
    """
    if settings.max_image_tokens is None or (folder / FILE).is_file():
        yield folder
        return
    changed = settings.besides(folder)
    with tempfile.TemporaryDirectory(prefix="mstar-ray-") as scratch:
        view = Path(scratch) / folder.resolve().name
        view.mkdir()
        for file in folder.iterdir():
            if file.name not in changed and file.suffix not in WEIGHTS:
                (view / file.name).symlink_to(file.resolve())
        for name, data in changed.items():
            (view / name).write_bytes(data)
        yield view


def load_parts(folder: Path, settings: ModelSettings) -> tuple[Any, Any]:
    """Config and processor of a model folder, as it is published.

    Raises:
        BadModel: one does not load, or needs what is not installed.
    """
    from transformers import AutoConfig, AutoProcessor
    from transformers.utils import is_torchvision_available

    if settings.image_backend == "torchvision" and not is_torchvision_available():
        raise BadModel("policy.image_backend = torchvision, and torchvision is not installed here")
    trust = settings.trust_remote_code
    options = {"local_files_only": True, **processor_options(settings)}
    if trust:
        check_code(folder)
        named = [f"{one} (sha256 {file_sha256(folder / one)[:16]})" for one in code_files(folder)]
        said = "%s: code of its own is run, as policy.trust_remote_code says: %s"
        _log.warning(said, folder, ", ".join(named))
    try:
        with as_published(folder, settings) as at:
            config = AutoConfig.from_pretrained(at, local_files_only=True, trust_remote_code=trust)
            raw = AutoProcessor.from_pretrained(at, trust_remote_code=trust, **options)
    except _UNLOADABLE as error:
        code = own_code(folder)
        if code and not trust:
            raise BadModel(
                f"{not_trusted(str(folder), code)}. transformers has no class for this model; "
                "docs/families.md has families that need no such code"
            ) from error
        ran = f" (its own code, {', '.join(code)}, was run)" if code else ""
        raise BadModel(f"{folder}: its config or processor does not load{ran}: {error}") from error
    found = getattr(getattr(raw, "image_processor", None), "backend", None)
    if found not in (None, settings.image_backend):
        _log.warning(
            "%s: its family has no image processor of %s (policy.image_backend); that of %s is "
            "used, by engine, learner and process reward model alike",
            folder, settings.image_backend, found,
        )  # fmt: skip
    return config, raw


def model_class(config: Any, trust_remote_code: bool) -> Any:
    """The class of transformers that makes a learner's model of a config; None: there is none.

    Code of a folder's own may have been written before there was a class for image and text.
    """
    import transformers

    own = (getattr(config, "auto_map", None) or {}) if trust_remote_code else {}
    for name in ("AutoModelForImageTextToText", "AutoModelForCausalLM", "AutoModel"):
        if name in own:
            return getattr(transformers, name)
    known = transformers.AutoModelForImageTextToText
    return known if type(config) in known._model_mapping else None


def load_model(folder: Path, dtype: Any, trust_remote_code: bool) -> Any:
    """The model of a folder, in this precision.

    Raises:
        BadModel: transformers has no class for it.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(
        folder, local_files_only=True, trust_remote_code=trust_remote_code
    )
    kind = model_class(config, trust_remote_code)
    if kind is None:
        raise BadModel(f"{folder}: transformers has no image-text-to-text model for its config")
    return kind.from_pretrained(
        folder, dtype=dtype, local_files_only=True, trust_remote_code=trust_remote_code
    )
