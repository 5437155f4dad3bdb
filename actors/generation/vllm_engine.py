"""A vLLM in this process that satisfies `pipeline.generation.engine.Engine`.

What always holds:

* one request is one sample with its own seed; which requests share a batch changes no token;
* the model is fed the rendered prompt (image placeholders expanded by vLLM itself) followed by the
  sampled ids of a prefix, and every sample says what it was fed;
* forbidden ids have probability zero, and log-probabilities are those of the distribution that was
  drawn from (`actors.model.processor`);
* after `load_policy` the engine holds the weights of that folder, read back from it, and nothing
  computed with others is left in any cache;
* an engine that failed once stays failed: its state is unknown, so it must be replaced.

    generate(a) ──┐  render (caller's thread, one at a time)
                  ├──► one engine thread: admit ─► step ─► step ─► …   continuous batching: requests
    generate(b) ──┘                                                    of all callers share steps

Every call into the engine is made by one thread: OpenMP keeps a pool of threads for each thread
that computes, and vLLM is not made to be shared. Callers hand it short stretches of steps until
their own requests are done, so two shards in flight keep the batch full while one of them drains.

Axes: B requests, T tokens of a response, P tokens of a prompt.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.generation.engine_settings import (
    EngineSettings,
    reload_llm,
    runs_as,
    start_llm,
    tensor_bytes,
)
from actors.generation.held_weights import check_held, unfit_weights
from actors.model.processor import Processor, load_processor, processor_sha256, tensor_shapes
from actors.model.recent import Recent
from actors.model.weights_check import check_weights
from pipeline.errors import BadConfig, BadData, BadModel, UserError
from pipeline.generation.engine import Finish, Sample, SampleRequest

if TYPE_CHECKING:
    from PIL.Image import Image

# Seconds of stepping that a caller hands to the engine thread at once: long enough that handing
# over costs nothing, short enough that another caller's requests join soon.
STRETCH_S = 0.05
# Bytes of rendered prompts (pixels above all) kept for when the same prompt is asked again.
RENDERED_BYTES = 256 << 20


def _rendered_bytes(rendered: dict[str, Any]) -> int:
    return 8 * len(rendered["prompt_token_ids"]) + tensor_bytes(rendered.get("mm_kwargs"))


class EngineBroken(RuntimeError):
    """The engine failed: what it holds is unknown, so it has to be replaced."""


@dataclass
class _Batch:
    """The requests of one `generate` call while they run."""

    inputs_B: list[dict[str, Any]]
    params_B: list[Any]
    outputs_B: list[Any] = field(default_factory=list)
    left: int = 0


class VllmEngine:
    """One vLLM, one policy at a time. `generate` may be called from several threads at once.

    `open_image` gives the picture of a content hash. `beat` is called after every step, for whoever
    watches that the engine moves. `start` makes the vLLM of a folder.
    """

    def __init__(
        self,
        settings: EngineSettings,
        open_image: Callable[[str], Image],
        beat: Callable[[], None] = lambda: None,
        *,
        start: Callable[[Path, EngineSettings, Sequence[int]], Any] = start_llm,
    ) -> None:
        self.settings = settings
        self._start_llm = start
        self.processor: Processor | None = None
        self._open_image = open_image
        self._beat = beat
        self._llm: Any = None
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._held: frozenset[bytes] = frozenset()
        self._processor_sha256 = ""
        self._running: dict[str, tuple[_Batch, int]] = {}
        self._requests = 0
        self._broken: str | None = None
        self._rendered: Recent[dict[str, Any]] = Recent(RENDERED_BYTES, _rendered_bytes)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="vllm")

    # --- policies ------------------------------------------------------------------------------

    def load_policy(self, folder: Path) -> None:
        """Start the engine on `folder`, or put its weights into the running one in place.

        Raises:
            BadModel: when it cannot be loaded (naming the file), or does not fit the policy that is
                there.
            EngineBroken: what the engine holds afterwards is not what is in `folder`.
        """
        folder = Path(folder)
        check_weights(folder)
        shapes = {
            name: shape
            for file in sorted(folder.glob("*.safetensors"))
            for name, shape in tensor_shapes(file).items()
        }
        if self._llm is None:
            self.processor = load_processor(folder, trusted=self.settings.trust_remote_code)
            # Kept, because the folder it came from may leave the node's cache in a long run.
            self._processor_sha256 = processor_sha256(folder)
            self._call(self._start, folder)
        else:
            self._check_same_model(folder, shapes)
            self._call(self._reload, folder)
        self._call(self._read_back, folder)
        self._shapes = shapes

    @property
    def runs_as(self) -> str:
        """What computes, once a policy is loaded: vLLM's version and model runner."""
        return runs_as(self._llm)

    def _start(self, folder: Path) -> None:
        self._llm = self._start_llm(folder, self.settings, self._ready().forbidden)

    def _read_back(self, folder: Path) -> None:
        self._held = check_held(self._llm, folder, self.settings.precision, self._held)

    def _check_same_model(self, folder: Path, shapes: dict[str, tuple[int, ...]]) -> None:
        """vLLM keeps the old value of a tensor that a checkpoint lacks, without a word."""
        if shapes != self._shapes:
            odd = sorted(set(shapes.items()) ^ set(self._shapes.items()))
            raise BadModel(f"{folder} holds other tensors than the policy before it: {odd[:4]}")
        if processor_sha256(folder) != self._processor_sha256:
            raise BadModel(f"{folder} has another tokenizer, processor or template than before")

    def _reload(self, folder: Path) -> None:
        if self._running:
            raise RuntimeError("load_policy while requests are running: they would mix policies")
        reload_llm(self._llm, folder)
        self._reset()

    def reset(self) -> None:
        """Forget every cached prefix, image and encoder output. Not while requests are running."""
        self._call(self._reset)

    def _reset(self) -> None:
        if not self._llm.reset_prefix_cache():
            raise RuntimeError("vLLM did not reset its prefix cache")
        self._llm.llm_engine.reset_mm_cache()
        self._llm.llm_engine.reset_encoder_cache()

    # --- samples -------------------------------------------------------------------------------

    def generate(self, requests: Sequence[SampleRequest]) -> list[Sample]:
        """One sample for each request, in their order.

        Raises:
            BadData: for a request that no engine could serve: a prompt longer than the context, an
                image that cannot be read. Nothing was generated then.
        """
        inputs_B = [self._input(request) for request in requests]
        params_B = [
            self._params(request, len(made["prompt_token_ids"]))
            for request, made in zip(requests, inputs_B, strict=True)
        ]
        outputs_B = self._run(inputs_B, params_B)
        return [self._sample(*pair) for pair in zip(requests, outputs_B, strict=True)]

    def _run(self, inputs_B: list[dict[str, Any]], params_B: list[Any]) -> list[Any]:
        """Have the engine do these requests, in a batch with those of other callers."""
        batch = _Batch(inputs_B, params_B, [None] * len(inputs_B), len(inputs_B))
        self._call(self._admit, batch)
        while batch.left:
            self._call(self._advance, batch)
        return batch.outputs_B

    def _admit(self, batch: _Batch) -> None:
        if self.settings.deterministic:
            if self._running:
                raise RuntimeError("a deterministic engine takes one batch at a time")
            self._reset()
        for index, (made, params) in enumerate(zip(batch.inputs_B, batch.params_B, strict=True)):
            self._requests += 1
            name = str(self._requests)
            self._llm.llm_engine.add_request(name, made, params)
            self._running[name] = (batch, index)

    def _advance(self, batch: _Batch) -> None:
        end = time.monotonic() + STRETCH_S
        while batch.left and time.monotonic() < end:
            for output in self._llm.llm_engine.step():
                if output.finished:
                    owner, index = self._running.pop(output.request_id)
                    owner.outputs_B[index] = output
                    owner.left -= 1
            self._beat()

    def _input(self, request: SampleRequest) -> dict[str, Any]:
        """What vLLM is given: the rendered prompt, and a prefix's sampled ids after it as ids."""
        made = self._render(request.prompt, request.images)
        prompt_P = made["prompt_token_ids"]
        if len(prompt_P) + len(request.prefix_token_ids) >= self.settings.max_model_len:
            raise BadData(
                f"a prompt of {len(prompt_P)} tokens and a prefix of "
                f"{len(request.prefix_token_ids)} leave no room for a response in "
                f"{self.settings.max_model_len} (generate.max_model_len)"
            )
        if not request.prefix_token_ids:
            return made
        # Placeholders stand in the prompt: ids after it move none of them.
        return {**made, "prompt_token_ids": [*prompt_P, *request.prefix_token_ids]}

    def _render(self, prompt: str, images: tuple[str, ...]) -> dict[str, Any]:
        return self._rendered.get((prompt, images), lambda: self._render_now(prompt, images))

    def _render_now(self, prompt: str, images: tuple[str, ...]) -> dict[str, Any]:
        from vllm.exceptions import VLLMValidationError

        raw: dict[str, Any] = {"prompt": prompt}
        if images:
            raw["multi_modal_data"] = {"image": [self._open_image(sha) for sha in images]}
            raw["multi_modal_uuids"] = {"image": list(images)}
        renderer = self._llm.renderer
        options = self._ready().options(prompt)
        tokenizing = renderer.default_cmpl_tok_params.with_kwargs(**options)
        try:
            made: dict[str, Any] = renderer.render_cmpl([raw], tokenizing)[0]
        except VLLMValidationError as error:
            if error.parameter == "image":
                raise BadData(
                    f"vLLM reads fewer images with a prompt of this model: {error}; leave queries "
                    "with more out of the data"
                ) from error
            raise BadData(f"{error} (generate.max_model_len)") from error
        return made

    def _params(self, request: SampleRequest, fed: int) -> Any:
        from vllm import SamplingParams
        from vllm.exceptions import VLLMValidationError
        from vllm.sampling_params import RequestOutputKind

        try:
            return SamplingParams(
                seed=request.seed,
                temperature=request.temperature,
                top_p=request.top_p if request.temperature > 0 else 1.0,
                max_tokens=min(request.max_new_tokens, self.settings.max_model_len - fed),
                logprobs=0,
                flat_logprobs=True,
                detokenize=False,
                output_kind=RequestOutputKind.FINAL_ONLY,
            )
        except VLLMValidationError as error:
            raise BadConfig(f"vLLM refuses to sample like this: {error}") from error

    def _sample(self, request: SampleRequest, output: Any) -> Sample:
        made = output.outputs[0]
        if made.finish_reason not in ("stop", "length"):
            raise EngineBroken(f"a request ended with {made.finish_reason!r}")
        finish: Finish = made.finish_reason
        token_ids_T = tuple(made.token_ids)
        prefix = request.prefix_token_ids
        fed = output.prompt_token_ids
        prompt_P = tuple(fed[: len(fed) - len(prefix)])
        if tuple(fed[len(prompt_P) :]) != prefix or tuple(made.logprobs.token_ids) != token_ids_T:
            raise EngineBroken("the engine's tokens are not those that were asked for or sampled")
        return Sample(
            token_ids_T=token_ids_T,
            logprobs_T=tuple(made.logprobs.logprobs),
            text=self._ready().decode((*prefix, *token_ids_T)),
            finish=finish,
            prompt_token_ids_P=prompt_P,
        )

    # --- the engine thread ---------------------------------------------------------------------

    def _ready(self) -> Processor:
        if self.processor is None:
            raise RuntimeError("no policy is loaded")
        return self.processor

    def _call(self, action: Callable[..., None], *args: Any) -> None:
        """Run `action` on the engine thread; whatever it raises breaks the engine for good.

        Raises:
            UserError: as `action` raised it, because no other engine would do better.
            EngineBroken: `action` raised anything else, or failed before.
        """
        if self._broken is not None:
            raise EngineBroken(self._broken)
        done = self._thread.submit(action, *args)
        error = done.exception()
        if error is not None and action in (self._start, self._reload):
            error = unfit_weights(error, *args) or error
        if error is not None:
            self._broken = f"{type(error).__name__}: {error}"
            if isinstance(error, UserError):
                raise error
            raise EngineBroken(self._broken) from error

    def close(self) -> None:
        """Free the engine's memory; its process may end afterwards."""
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._llm = None
