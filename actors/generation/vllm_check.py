"""Whether vLLM can serve a model whose code lies in its folder, told before any engine starts.

vLLM takes a class of its own where it has one of the name that the folder's config gives
(`architectures`), and otherwise the folder's model, if that is written as transformers' are. With a
class of its own it may also take a processor of its own. It is asked in a process of its own, which
reads configs, makes the processor and loads no weights.

    python -m actors.generation.vllm_check FOLDER pil|torchvision
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, cast

from actors.model.processor import Processor, load_processor
from actors.model.reading import processor_options
from pipeline.errors import BadModel
from pipeline.model_settings import ImageBackend, ModelSettings

SECONDS = 600.0
_MARK = "vllm-check "


def check_served(processor: Processor, *, headed: bool) -> None:
    """Refuse a folder whose own code is run and that vLLM cannot serve.

    processor: of the folder. headed: whether vLLM is to serve it with a process reward model's
    head, too.

    Raises:
        BadModel: naming the folder and vLLM's own reason.
    """
    folder, answer = processor.folder, _answer(processor)
    if "error" in answer:
        raise BadModel(
            f"{folder} brings code of its own, and vLLM cannot serve it "
            f"({', '.join(answer['architectures'])}): {answer['error']}"
        )
    if headed and answer["own"]:
        raise BadModel(
            f"{folder}: vLLM runs the folder's own model ({', '.join(answer['architectures'])}), "
            "which it cannot give a process reward model's head: set prm.engine=transformers"
        )


def _answer(processor: Processor) -> dict[str, Any]:
    """What `ask` says of a processor's folder, in another process.

    Raises:
        BadModel: it said nothing.
    """
    folder = processor.folder
    with tempfile.TemporaryDirectory(prefix="mstar-ray-") as scratch:
        environment = {
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_LOGGING_LEVEL": "ERROR",
            "HF_HUB_OFFLINE": "1",
            "HF_MODULES_CACHE": scratch,
        }
        try:
            ended = subprocess.run(
                [sys.executable, "-m", __name__, str(folder), processor.settings.image_backend],
                env={**os.environ, **environment},
                capture_output=True,
                text=True,
                timeout=SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise BadModel(
                f"{folder}: vLLM did not say in {SECONDS:g} s if it serves it"
            ) from error
    said = [line for line in ended.stdout.splitlines() if line.startswith(_MARK)]
    if not said:
        last = "\n".join(ended.stderr.splitlines()[-5:])
        raise BadModel(f"{folder}: vLLM could not be asked whether it serves it: {last}")
    answer: dict[str, Any] = json.loads(said[-1].removeprefix(_MARK))
    return answer


def ask(folder: Path, settings: ModelSettings) -> dict[str, Any]:
    """What vLLM makes of a folder: `own`, whether it runs the folder's model, or `error`."""
    from PIL import Image
    from vllm.engine.arg_utils import EngineArgs
    from vllm.multimodal import MULTIMODAL_REGISTRY

    names = json.loads((folder / "config.json").read_text("utf-8")).get("architectures") or ["?"]
    try:
        config = EngineArgs(
            model=str(folder),
            trust_remote_code=True,
            limit_mm_per_prompt={"video": 0},
            mm_processor_kwargs=processor_options(settings),
        ).create_model_config()
        if not config.is_multimodal_model:
            return {"architectures": names, "error": "it takes it for a model without pictures"}
        info = MULTIMODAL_REGISTRY.create_processor(config).info
        info.get_mm_max_tokens_per_item(config.max_model_len, {"image": 1})
        ours, theirs = load_processor(folder, settings=settings), info.get_hf_processor()
        if other := _other_processor(ours._processor, theirs):
            return {"architectures": names, "error": other}
        picture = {"text": ours.prompt("?", 1), "images": [Image.new("RGB", (64, 64))]}
        info.ctx.call_hf_processor(theirs, picture)
    except Exception as error:  # noqa: BLE001 (whatever it is, it is what vLLM says of the folder)
        cause = error.__cause__ or error
        lines = [line for line in str(cause).splitlines() if line.strip()]
        return {
            "architectures": names,
            "error": f"{type(cause).__name__}: {' '.join(lines[:3])[:300]}",
        }
    return {"architectures": names, "own": config.using_transformers_backend()}


def _other_processor(ours: Any, theirs: Any) -> str | None:
    """That vLLM does not take the processor which learner and process reward model take, or None:
    its own class for a family may come with a processor of its own, and pictures would differ."""
    for part in ("", "image_processor"):
        pair = [type(getattr(one, part) if part else one).__name__ for one in (ours, theirs)]
        if pair[0] != pair[1]:
            return (
                f"its processor would be {pair[1]}, and the folder's own is {pair[0]}, so that "
                "engine and learner would read pictures differently"
            )
    return None


if __name__ == "__main__":
    how = ModelSettings(image_backend=cast(ImageBackend, sys.argv[2]), trust_remote_code=True)
    print(_MARK + json.dumps(ask(Path(sys.argv[1]), how)))
