"""The policy's own processor: the one source of tokens, and the checks of a model folder.

Whoever needs a prompt's token ids gets them here, so generator and learner cannot disagree about
them. A `Processor` that `load_processor` returned fits its model: every token it can make has an
embedding, its image placeholder is the one the model fills in, its chat template keeps images and
text, and it knows which token ends a response.

*Forbidden* ids are those that a response must never hold: image placeholders and what surrounds
them, padding, and rows of the embedding that no token has. A policy that samples a placeholder asks
the next forward pass for an image that is not there. They get probability zero, so what a response
is drawn from (and what log-probabilities are reported under) is

    softmax(logits with forbidden ids at -inf, divided by T), cut to the nucleus and renormalised
    when top_p < 1;     greedy decoding (T = 0) reports the distribution at T = 1

and `sampling_logprobs` computes exactly that for a learner.

Axes: T tokens of a response, P tokens of a prompt, V entries of the vocabulary.
"""

from __future__ import annotations

import json
import re
import threading
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.model.reading import load_parts
from pipeline.errors import BadData, BadModel, download_hint
from pipeline.hashing import canonical_json, sha256_hex
from pipeline.model_settings import FILE as MODEL_SETTINGS
from pipeline.model_settings import (
    ModelSettings,
    check_settings,
    code_files,
    published_settings,
)
from pipeline.prompts import TEMPLATE_TIME, render_prompt

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

# What decides a prompt's tokens, besides code of the folder's own. Weights, config and generation
# settings are not part of it.
PROCESSOR_FILES = (
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "merges.txt",
    MODEL_SETTINGS,
    "preprocessor_config.json",
    "processor_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
)
REMEMBERED_PROMPTS = 32_768
"""Of which the ids are kept in four bytes each: 128 MiB where a prompt has a thousand."""

DEFAULTS = ModelSettings()
# Names under which families keep the ids of their visual tokens, in configs and processors.
_VISUAL_ATTRIBUTE = re.compile(r"(image|img|video|vision|patch|row_col).*(_ids?|_index)$")
# And how the tokens themselves look: <image>, <|vision_start|>, <row_1_col_2>, [IMG_BREAK], ...
_VISUAL_TOKEN = re.compile(r"image|img|video|vision|row_\d+_col_\d+|<patch|slice>", re.IGNORECASE)


def processor_sha256(folder: Path) -> str:
    """Hash of the files that decide a prompt's tokens; needs no model library."""
    names = {*PROCESSOR_FILES, *code_files(folder)}
    found = {
        name: sha256_hex((folder / name).read_bytes())
        for name in names
        if (folder / name).is_file()
    }
    return sha256_hex(canonical_json(found))


class Processor:
    """A Hugging Face processor with the rules of this project around it. Safe to share by threads.

    Every call of the wrapped object is made under one lock: a fast tokenizer used by two threads
    at once raises "Already borrowed".
    """

    def __init__(
        self, folder: Path, processor: Any, config: Any, settings: ModelSettings = DEFAULTS
    ) -> None:
        self.folder = folder
        self.settings = settings
        self._processor = processor
        self.config = config
        self._lock = threading.Lock()
        self._ids: dict[tuple[str, tuple[str, ...]], array[int]] = {}

    @property
    def tokenizer(self) -> Any:
        """The tokenizer inside."""
        return self._processor.tokenizer

    @cached_property
    def vocabulary(self) -> int:
        """Rows of the model's embedding: ids are below this."""
        return int(self.config.get_text_config().vocab_size)

    @cached_property
    def end_ids(self) -> tuple[int, ...]:
        """The ids that end a response: those of the generation settings, else the tokenizer's."""
        return _end_ids(self.folder, self.config, self.tokenizer)

    @cached_property
    def visual(self) -> dict[int, str]:
        """The ids that stand for an image or surround one, and how they are written."""
        named = set(_visual_ids(self.config)) | set(_visual_ids(self._processor))
        added = self.tokenizer.added_tokens_decoder
        named |= {
            i for i, token in added.items() if token.special and _VISUAL_TOKEN.search(token.content)
        }
        ids = sorted(i for i in named - set(self.end_ids) if i < self.vocabulary)
        return dict(zip(ids, self.tokenizer.convert_ids_to_tokens(ids), strict=True))

    @cached_property
    def forbidden(self) -> tuple[int, ...]:
        """The ids that a response must never hold, ascending."""
        named = set(self.tokenizer.get_vocab().values())
        found = set(self.visual) | {i for i in range(self.vocabulary) if i not in named}
        if self.tokenizer.pad_token_id is not None:
            found.add(self.tokenizer.pad_token_id)
        return tuple(sorted(found - set(self.end_ids)))

    def forbidden_in(self, token_ids_T: Sequence[int]) -> bool:
        """Whether a response holds an id that it must not."""
        return not self._forbidden_set.isdisjoint(token_ids_T)

    @cached_property
    def _forbidden_set(self) -> frozenset[int]:
        return frozenset(self.forbidden)

    def prompt(self, text: str, n_images: int, system: str = "") -> str:
        """The chat-templated prompt, image placeholders not expanded.

        Raises:
            BadData: when the text holds one of the model's special tokens.
        """
        with self._lock:
            return render_prompt(self._processor, text, n_images, system)

    def options(self, prompt: str) -> dict[str, Any]:
        """How `prompt` is tokenised: a template that writes the start token gets no second one."""
        start = self.tokenizer.bos_token
        return {"add_special_tokens": False} if start and prompt.startswith(start) else {}

    @cached_property
    def writes_the_time(self) -> bool:
        """Whether its chat template writes a date or a time, which prompts freeze."""
        later = TEMPLATE_TIME + timedelta(days=400, hours=7, minutes=11, seconds=13)
        with self._lock:
            return render_prompt(self._processor, "?", 0) != render_prompt(
                self._processor, "?", 0, now=later
            )

    def length(self, prompt: str) -> int:
        """The tokens of a prompt, image placeholders not expanded."""
        with self._lock:
            return len(self.tokenizer(prompt, **self.options(prompt))["input_ids"])

    def inputs(self, prompt: str, images: Sequence[Image]) -> dict[str, Any]:
        """Everything the model is fed for one prompt, as tensors with a first axis of one."""
        with self._lock:
            made = self._processor(
                text=[prompt],
                images=[list(images)] if images else None,
                return_tensors="pt",
                **self.options(prompt),
            )
        # Some give labels for training on the whole prompt (PaliGemma); these are made elsewhere.
        return {name: tensor for name, tensor in made.items() if name != "labels"}

    def input_ids(
        self, prompt: str, images: tuple[str, ...], open_image: Callable[[str], Image]
    ) -> tuple[int, ...]:
        """The prompt's ids, image placeholders expanded; remembered, since prompts come again.

        Raises:
            BadData: when an image cannot be used, or the processor refuses the prompt.
        """
        key = (prompt, images)
        if key not in self._ids:
            pictures = [open_image(sha) for sha in images]
            try:
                made = self.inputs(prompt, pictures)
            except ValueError as error:
                raise BadData(f"the processor refuses it: {error}") from error
            while len(self._ids) >= REMEMBERED_PROMPTS:
                self._ids.pop(next(iter(self._ids)), None)
            self._ids[key] = array("i", made["input_ids"][0].tolist())
        return tuple(self._ids[key])

    def response_ids(self, text: str) -> tuple[int, ...]:
        """The ids of a response that nobody sampled, the tokenizer's end token last."""
        with self._lock:
            ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return (*map(int, ids), int(self.tokenizer.eos_token_id))

    def decode(self, token_ids_T: Sequence[int]) -> str:
        """The text of sampled ids, special tokens (the end token among them) left out."""
        with self._lock:
            return str(
                self.tokenizer.decode(
                    list(token_ids_T), skip_special_tokens=True, clean_up_tokenization_spaces=False
                )
            )


def sampling_logprobs(
    logits_T_V: Tensor,
    token_ids_T: Tensor,
    *,
    forbidden: Sequence[int],
    temperature: float,
    top_p: float = 1.0,
) -> Tensor:
    """Log-probabilities of sampled ids under the distribution they were drawn from, float32."""
    import torch

    logits = logits_T_V.float().clone()
    logits[:, list(forbidden)] = -torch.inf
    if temperature > 0:
        logits = logits / temperature
    if top_p < 1.0 and temperature > 0:
        ordered, order = logits.sort(dim=-1)
        outside = ordered.softmax(dim=-1).cumsum(dim=-1) <= 1.0 - top_p
        outside[:, -1] = False
        logits = logits.masked_fill(outside.scatter(-1, order, outside), -torch.inf)
    logprobs = logits.log_softmax(dim=-1)
    return logprobs.gather(-1, token_ids_T.unsqueeze(-1)).squeeze(-1)


def load_processor(
    folder: Path,
    *,
    weights: bool = True,
    settings: ModelSettings | None = None,
    trusted: bool = False,
) -> Processor:
    """The processor of a model folder, checked against the model it lies beside.

    Loads no weights and starts no engine. weights: False for a folder that holds all but these.
    settings: how a folder of the user's is read; None: as it was published. trusted: of a published
    one, whether the settings of the present command let code of a model be run.

    Raises:
        BadModel: naming the folder, what is missing or does not fit, and what to do.
    """
    folder = Path(folder)
    _check_files(folder, weights)
    if settings is None:
        settings = published_settings(folder, trusted)
    else:
        check_settings(folder, settings)
        settings = settings.of(folder)
    config, raw = load_parts(folder, settings)
    processor = Processor(folder, raw, config, settings)
    problems = list(_problems(processor, raw, config))
    if not problems:
        problems = list(_probe(processor, config))
    if problems:
        raise BadModel("\n  ".join([f"{folder} cannot be used as a policy:", *problems]))
    return processor


def _check_files(folder: Path, weights: bool) -> None:
    if not folder.is_dir():
        hint = download_hint(str(folder), "model", "policy.path")
        raise BadModel(f"{folder} is not a folder; give a local model folder (policy.path){hint}")
    if not (folder / "config.json").is_file():
        raise BadModel(f"{folder} holds no config.json, so it is not a model folder")
    missing = []
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        missing.append("tokenizer (tokenizer.json)")
    kinds = ("processor_config.json", "preprocessor_config.json")
    if not any((folder / kind).is_file() for kind in kinds):
        missing.append(f"image processor ({' or '.join(kinds)})")
    if weights and not any(folder.glob("*.safetensors")):
        missing.append("weights as safetensors (*.safetensors; pickled weights are not read)")
    if missing:
        raise BadModel(
            f"{folder} has no {', no '.join(missing)}; put all files of the published model into "
            "one folder"
        )


def _visual_ids(holder: Any) -> Iterator[int]:
    for name, value in vars(holder).items():
        if _VISUAL_ATTRIBUTE.search(name.lower()):
            values = value if isinstance(value, list | tuple) else [value]
            # A flag such as `use_image_id` is an int to Python, and no id.
            yield from (i for i in values if type(i) is int and i >= 0)


def _end_ids(folder: Path, config: Any, tokenizer: Any) -> tuple[int, ...]:
    """As vLLM finds them: generation_config.json, and the tokenizer's end token besides."""
    ends = {tokenizer.eos_token_id}
    file = folder / "generation_config.json"
    stored = json.loads(file.read_text()).get("eos_token_id") if file.is_file() else None
    ends |= set(stored) if isinstance(stored, list) else {stored}
    return tuple(sorted(i for i in ends if isinstance(i, int)))


def _problems(processor: Processor, raw: Any, config: Any) -> Iterator[str]:
    tokenizer = getattr(raw, "tokenizer", None)
    if tokenizer is None or getattr(raw, "image_processor", None) is None:
        yield f"its processor ({type(raw).__name__}) has no tokenizer or no image processor"
        return
    if not getattr(raw, "chat_template", None):
        yield "it has no chat template (chat_template.jinja); a policy is asked in chat form"
    highest = max(tokenizer.get_vocab().values())
    if highest >= processor.vocabulary:
        yield (
            f"its tokenizer makes ids up to {highest}, its model has embeddings for "
            f"{processor.vocabulary}: they belong to different models"
        )
    rows = _embedding_rows(processor.folder)
    if rows is not None and rows < processor.vocabulary:
        yield f"config.json says {processor.vocabulary} embeddings, the weights hold {rows}"
    if not processor.end_ids or max(processor.end_ids) >= processor.vocabulary:
        yield f"no end token that its model knows (found {list(processor.end_ids)})"
    wanted = _image_tokens(config)
    made = getattr(raw, "image_seq_len", None) or getattr(raw, "image_seq_length", None)
    if wanted is not None and made is not None and wanted != made:
        yield f"its processor makes {made} image tokens of a tile, its model {wanted} features"


def _image_tokens(config: Any) -> int | None:
    """Features of one tile, for families whose config says so: as Gemma 3 does, as Idefics3 and
    SmolVLM, or as InternVL."""
    if hasattr(config, "mm_tokens_per_image"):
        return int(config.mm_tokens_per_image)
    vision = getattr(config, "vision_config", None)
    sides = [getattr(vision, name, None) for name in ("image_size", "patch_size")]
    side, patch = (size[0] if isinstance(size, list | tuple) else size for size in sides)
    if hasattr(config, "scale_factor"):
        shrunk = 1 / config.scale_factor
    else:
        shrunk = getattr(config, "downsample_ratio", None)
    if isinstance(side, int) and isinstance(patch, int) and shrunk is not None:
        return round((side // patch) ** 2 * shrunk**2)
    return None


def _embedding_rows(folder: Path) -> int | None:
    """Rows of the text embedding as stored, read from the headers of the weight files."""
    for shapes in map(tensor_shapes, sorted(folder.glob("*.safetensors"))):
        for name, shape in shapes.items():
            if name.endswith("embed_tokens.weight"):
                return shape[0]
    return None


def tensor_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes in a safetensors file, from its header alone.

    Raises:
        BadModel: when it has no readable header.
    """
    with file.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        head = stream.read(size) if size < 1 << 28 else b""
    try:
        header = json.loads(head)
    except ValueError as error:
        raise BadModel(f"{file} is not a complete safetensors file") from error
    header.pop("__metadata__", None)
    return {name: tuple(entry["shape"]) for name, entry in header.items()}


# A question as the probe asks it. Any text of plain words would do.
_PROBE = "How many of these are red?"
_RENDERINGS = 16


def _probe(processor: Processor, config: Any) -> Iterator[str]:
    """What template and processor make of text with none, one and two images."""
    from jinja2 import TemplateError
    from PIL import Image

    prompts = []
    for n in range(3):
        try:
            prompts.append(processor.prompt(_PROBE, n))
        except (BadData, TemplateError) as error:
            yield f"its chat template does not render {n} images and a question: {error}"
            return
    # Jinja can draw at random: prompts would differ from their own hashes.
    if len({processor.prompt(_PROBE, 1) for _ in range(_RENDERINGS)}) > 1:
        yield "its chat template does not write the same prompt twice; take its random part out"
    for prompt in prompts:
        if _PROBE not in prompt:
            yield f"its chat template drops the question: {prompt!r}"
    marks = processor.visual.values()
    none, one, two = (sum(prompt.count(mark) for mark in marks) for prompt in prompts)
    if none or not one or two != 2 * one:
        yield (
            f"its chat template writes {none}, {one} and {two} image tokens for no image, one and "
            f"two; for one image: {prompts[1]!r}"
        )
        return
    picture = Image.new("RGB", (64, 64), "white")
    try:
        ids = processor.inputs(prompts[1], [picture])["input_ids"][0].tolist()
    except ValueError as error:
        yield f"its processor refuses a prompt with an image: {error}"
        return
    token = getattr(config, "image_token_id", None) or getattr(config, "image_token_index", None)
    # The config's word is the model's; what a processor calls so may be what it writes before an
    # image (Gemma 3).
    counts = Counter(i for i in ids if i in processor.visual)
    most = max(counts.values(), default=0)
    if token is not None and not 0 < most == counts[token]:
        made = {processor.visual[i]: count for i, count in counts.items()}
        yield f"its model's image token is {token}, and its processor makes {made} of an image"
