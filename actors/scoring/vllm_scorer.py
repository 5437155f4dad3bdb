"""A process reward model as a vLLM pooling model in this process.

What always holds:

* every step that is asked for gets its score: from the engine, from the memo, or by asking again
  without reuse; a score that is missing even then is an error;
* the computation of image, question and shared first steps is reused across the responses of a
  query, and equal responses are computed once;
* with `deterministic`, what a batch gives is a function of the batch alone.

The trap this avoids: a pooling request that hits the prefix cache returns the logits of the tokens
*after* the hit, silently, and a hit may reach into the response where two responses share their
first steps.

    score ──► known from the memo? ──► feed what is not (each distinct text once, with reuse)
                   ▲                          │ logits, counted from the end
                   └──────── memo ◄───────────┘
              still unknown ──► feed again, reuse off ──► still unknown: error

Axes: B requests, S steps of a response, T tokens.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.generation.engine_settings import EngineSettings, common_options
from actors.generation.vllm_engine import EngineBroken, VllmEngine
from actors.model.likelihood import RESPONSE_TOKENS, bytes_beside
from actors.model.value_head import read_head, read_likelihood
from pipeline.errors import BadConfig
from pipeline.model_settings import published_settings
from pipeline.prm.step_scores import (
    Excluded,
    Fed,
    Memo,
    ScoreRequest,
    Scores,
    StepKeys,
    feed,
    probability,
)

if TYPE_CHECKING:
    from PIL.Image import Image


def start_pooling(
    folder: Path, settings: EngineSettings, *, cache_images: bool = False, beside: int = 0
) -> Any:
    """A vLLM that gives one logit for every token; with its own cache of processed images or
    without. beside: bytes of each GPU that it leaves for what is computed besides."""
    os.environ.update(settings.environment())
    import torch
    from vllm import LLM
    from vllm.config import PoolerConfig

    from actors.scoring.vllm_head_loader import FORMAT, LoadsValueHeads, one_label

    # A chunk's logits would have to be put together again; a prompt must fit a step instead.
    options = common_options(settings, folder, chunked_prefill=False)
    if cache_images:
        del options["mm_processor_cache_gb"]
    options["max_num_batched_tokens"] = max(
        options.get("max_num_batched_tokens", 0), 8192, settings.max_model_len
    )
    if beside and (share := options.get("gpu_memory_utilization")):
        total = torch.cuda.get_device_properties(0).total_memory
        options["gpu_memory_utilization"] = share_beside(share, beside, total)
    return LLM(
        model=str(folder),
        runner="pooling",
        convert="classify",
        pooler_config=PoolerConfig(
            task="token_classify", tok_pooling_type="ALL", use_activation=False
        ),
        load_format=FORMAT,
        worker_extension_cls=f"{LoadsValueHeads.__module__}.{LoadsValueHeads.__qualname__}",
        hf_overrides=one_label,
        **options,
    )


def share_beside(share: float, beside: int, total: int) -> float:
    """The share of a GPU of `total` bytes that vLLM takes of `share`, with `beside` left of it.

    Raises:
        BadConfig: nothing is.
    """
    left = share - beside / total
    if left <= 0:
        raise BadConfig(
            f"generate.gpu_memory_utilization = {share:g} of {total / 2**30:.1f} GiB has no room "
            f"for the {beside / 2**30:.1f} GiB that prm.log_likelihood takes besides the scorer"
        )
    return left


def pooling_params(response_tokens: int, *, reuse: bool) -> Any:
    """How an engine of `start_pooling` is asked about a response, the last tokens of what it reads.

    reuse: let it read the prefix cache.
    """
    from vllm import PoolingParams

    return PoolingParams(
        task="token_classify",
        use_activation=False,
        skip_reading_prefix_cache=not reuse,
        extra_kwargs={RESPONSE_TOKENS: response_tokens},
    )


class VllmScorer(VllmEngine):
    """One pooling vLLM, one PRM at a time: a `pipeline.prm.step_scores.StepScorer`.

    tag_ids: what a model that scores at a step tag reads after each step. reuse: let requests read
    the prefix cache; off, every response is computed whole (a reference, and for comparison).
    """

    def __init__(
        self,
        settings: EngineSettings,
        open_image: Callable[[str], Image],
        beat: Callable[[], None] = lambda: None,
        *,
        tag_ids: Sequence[int] = (),
        reuse: bool = True,
        memo: Memo | None = None,
    ) -> None:
        super().__init__(settings, open_image, beat)
        self.memo = memo if memo is not None else Memo()
        self.asked_again = 0
        self._tag_ids = tuple(tag_ids)
        self._reuse = reuse
        self._likelihood: float | None = None
        self._so_far = Memo()

    def load_policy(self, folder: Path) -> None:
        """Serve the PRM in `folder`.

        Raises:
            BadModel: it has no head, or cannot be loaded.
        """
        read_head(folder)
        likelihood = read_likelihood(folder)
        self._likelihood = None if likelihood is None else float(likelihood)
        self._forget()
        super().load_policy(folder)

    def _start(self, folder: Path) -> None:
        known = self._likelihood is not None
        trust = published_settings(folder, self.settings.trust_remote_code).trust_remote_code
        beside = bytes_beside(folder, self.settings.precision, trust) if known else 0
        self._llm = start_pooling(folder, self.settings, beside=beside)
        self._tell(folder)

    def _reload(self, folder: Path) -> None:
        super()._reload(folder)
        self._tell(folder)

    def _tell(self, folder: Path) -> None:
        if self._likelihood is not None:
            from actors.scoring.vllm_likelihood import serve_likelihood

            how = published_settings(folder, self.settings.trust_remote_code)
            serve_likelihood(self._llm, folder, how.trust_remote_code)

    def _forget(self) -> None:
        self.memo.clear()
        self._so_far.clear()

    def score(self, requests: Sequence[ScoreRequest]) -> list[Scores | Excluded]:
        """Step probabilities of each request, in order, or why there are none.

        Raises:
            BadModel: a logit is no finite number.
            BadData: an image cannot be read, or the prompt alone is longer than the context.
        """
        if self.settings.deterministic or not self._reuse:
            self._forget()
        found: list[Scores | Excluded | None] = [None] * len(requests)
        waiting: dict[int, tuple[Fed, list[bytes]]] = {}
        keys_of = cache(StepKeys)  # responses to one prompt come together
        for index, request in enumerate(requests):
            fed = feed(request, self._tag_ids)
            if not request.ends_S:
                found[index] = "no_steps"
            elif not self._fits(request, fed):
                found[index] = "too_long"
            else:
                waiting[index] = (fed, keys_of(request.prompt, request.images).of(fed))
        self._ask(requests, waiting, reuse=self._reuse)
        lost = {i: item for i, item in waiting.items() if self._known(item[1]) is None}
        if lost:
            self.asked_again += len(lost)
            self._ask(requests, lost, reuse=False)
        for index, (_, keys) in waiting.items():
            known = self._known(keys)
            if known is None:
                raise EngineBroken("the engine did not return a score that was asked for")
            found[index] = known
        return [one for one in found if one is not None]

    def _known(self, keys: Sequence[bytes]) -> Scores | None:
        scores = [self.memo.get(key) for key in keys]
        whole = tuple(score for score in scores if score is not None)
        return whole if len(whole) == len(keys) else None

    def _fits(self, request: ScoreRequest, fed: Fed) -> bool:
        prompt = self._render(request.prompt, request.images)["prompt_token_ids"]
        return len(prompt) + len(fed.token_ids_T) <= self.settings.max_model_len

    def _ask(
        self,
        requests: Sequence[ScoreRequest],
        waiting: dict[int, tuple[Fed, list[bytes]]],
        *,
        reuse: bool,
    ) -> None:
        """Feed what is not known, each distinct text once; scores go to the memo."""
        chosen: dict[bytes, list[int]] = {}
        for index, (_, keys) in waiting.items():
            if self._known(keys) is None:
                chosen.setdefault(keys[-1], []).append(index)
        if not chosen:
            return
        inputs_B, params_B = [], []
        for first, *_ in chosen.values():
            made = self._render(requests[first].prompt, requests[first].images)
            read_T = waiting[first][0].token_ids_T
            inputs_B.append({**made, "prompt_token_ids": [*made["prompt_token_ids"], *read_T]})
            params_B.append(pooling_params(len(read_T), reuse=reuse))
        outputs_B = self._run(inputs_B, params_B)
        for same, made, output in zip(chosen.values(), inputs_B, outputs_B, strict=True):
            # Equal texts may have their steps cut at different places.
            for index in same:
                length, name = len(made["prompt_token_ids"]), requests[index].name
                self._remember(waiting[index], length, output, name)

    def _remember(self, item: tuple[Fed, list[bytes]], length: int, output: Any, name: str) -> None:
        """Put every step score that came into the memo; before a cache hit none come.

        length: tokens that the engine was given. name: whose scores they are.
        """
        fed, keys = item
        told_N = output.outputs.data.double().tolist()
        if len(told_N) + output.num_cached_tokens != length:
            raise EngineBroken(
                f"{len(told_N)} logits came for {length} tokens, {output.num_cached_tokens} of "
                "them cached"
            )
        first = len(fed.token_ids_T) - len(told_N)  # of the response's ids, what was computed
        start, so_far = 0, 0.0
        for step, (place, key) in enumerate(zip(fed.places_S, keys, strict=True), 1):
            if self._likelihood is not None:
                known = self._so_far.get(key)
                if known is None and start <= first:
                    return  # a cache hit hides how likely this was, and so all that follows
                if known is None:
                    known = so_far + sum(t[1] for t in told_N[start - first : place - first + 1])
                    self._so_far.put(key, known)
                start, so_far = place + 1, known
            if place >= first:
                added = (self._likelihood or 0.0) * so_far
                where = f"step {step} of {name}"
                self.memo.put(key, probability(told_N[place - first][0] + added, where))
