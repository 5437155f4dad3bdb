"""GPU memory of every role, from the model's shape and the recipe, and whether it fits.

Parts are in bytes on one GPU at the peak, the longest rows that the recipe allows in every
micro-batch. P parameters, R ranks, B rows of a micro-batch, T tokens of a row, G of its response.

    learner   weights, master weights and Adam's moments (float32), gradients, logits, activations;
              divided by R as the ZeRO stage says (Rajbhandari et al. 2020, section 5)
    engine    weights, what vLLM profiles for a step, and the key-value cache in the rest of the
              share that it may take (`generate.gpu_memory_utilization`)
    scorer    as an engine, with a head in place of the token logits
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pipeline.config.schema import Config
from pipeline.errors import BadConfig
from pipeline.plan.gpus import GIB, Gpu
from pipeline.plan.models import BYTES, ModelShape

CONTEXT = 1.5 * GIB
"""CUDA context, kernels, NCCL's buffers."""

LAYER = 34
"""Bytes of activations of one layer for one token and hidden unit, without those of attention,
which flash kernels do not keep (Korthikanti et al. 2022, section 4.1)."""

LOGIT = 16
"""Bytes of one logit: in bfloat16, in float32, its log-softmax, and the gradients of both."""

LIVE = 1_000_000_000
"""Parameters that ZeRO-3 keeps gathered at most (`stage3_max_live_parameters`)."""

STEP_TOKENS, GRAPHS = 8192, 1.5 * GIB
"""Of a vLLM engine: tokens of its largest step, memory of its CUDA graphs."""


@dataclass(frozen=True)
class Need:
    """What one role needs of each of its GPUs.

    parts: bytes by name. room: bytes that it may take. advice: what to change when it does not fit.
    notes: what there is to know where it fits.
    """

    role: str
    parts: Mapping[str, float]
    room: float
    advice: str
    notes: tuple[str, ...] = ()

    @property
    def total(self) -> float:
        """Bytes at the peak."""
        return sum(self.parts.values())

    @property
    def fits(self) -> bool:
        """Whether there is room."""
        return self.total <= self.room


def check_memory(needs: list[Need], gpu: Gpu) -> None:
    """Refuses roles that do not fit.

    Raises:
        BadConfig: with the parts, and what would help.
    """
    problems = [
        f"{need.role} does not fit {gpu.name}: it needs {gib(need.total)} of {gib(need.room)} GiB "
        f"({parts_text(need)}). {need.advice}"
        for need in needs
        if not need.fits
    ]
    if problems:
        raise BadConfig("\n".join(problems))


def gib(size: float) -> str:
    """Bytes as GiB."""
    return f"{size / GIB:.1f}"


def parts_text(need: Need) -> str:
    """The parts of a need in words, the largest first."""
    parts = sorted(need.parts.items(), key=lambda part: -part[1])
    return ", ".join(f"{name} {gib(size)}" for name, size in parts if size)


def needs_of(config: Config, shape: ModelShape, gpu: Gpu, prompt: float) -> Iterator[Need]:
    """What every role of a recipe needs of its GPUs; none for a role on CPUs.

    prompt: tokens of a prompt, image tokens included.
    """
    if config.cluster.gpus_per_rank:
        yield learner_need(config, shape, gpu, prompt)
    if config.cluster.gpus_per_engine:
        yield engine_need(config, shape, gpu)
        if config.select.reward == "prm":
            yield scorer_need(config, shape, gpu)


# --- learner -------------------------------------------------------------------------------------


def states(config: Config, shape: ModelShape, ranks: int) -> dict[str, float]:
    """Bytes of weights, optimizer states and gradients on one of so many ranks.

    ZeRO-1 divides the optimizer's states, 2 the gradients besides, 3 the weights too. Gradients are
    summed in float32; of its own part a rank holds them a second time while it takes a step.
    """
    learn, count = config.learn, float(shape.parameters)
    stage, width = learn.zero_stage, BYTES[learn.precision]
    summed = count if stage == 1 else count / ranks
    passing = width * count if stage == 1 and width < 4 else 0.0
    return {
        "weights": width * (count / ranks if stage == 3 else count),
        "master weights": 4 * count / ranks,
        "Adam's moments": 8 * count / ranks,
        "gradients": 4 * summed + passing + 4 * count / ranks,
        "gathered": width * min(count, LIVE) if stage == 3 and ranks > 1 else 0.0,
    }


def row_parts(config: Config, shape: ModelShape, prompt: float) -> dict[str, float]:
    """Bytes of a micro-batch of the longest rows: its logits and activations."""
    learn, generate = config.learn, config.generate
    width = BYTES[learn.precision] / 2  # LAYER is of two-byte numbers
    length = min(prompt + generate.max_new_tokens, generate.max_model_len)
    tokens = learn.micro_batch * length
    layer, tower = LAYER * width * shape.hidden, LAYER * width * shape.vision_hidden
    inputs, tower_inputs = 2 * width * shape.hidden, 2 * width * shape.vision_hidden
    # A vision tower reads some four patches for each image token of the prompt.
    patches = 4 * learn.micro_batch * prompt if shape.vision_hidden else 0.0
    if learn.gradient_checkpointing:
        text = tokens * (shape.layers * inputs + layer)
        vision = patches * (shape.vision_layers * tower_inputs + tower)
    else:
        text = tokens * shape.layers * layer
        vision = patches * shape.vision_layers * tower
    logits = LOGIT * learn.micro_batch * generate.max_new_tokens * float(shape.vocabulary)
    return {"logits": logits, "activations": text + vision}


def learner_need(config: Config, shape: ModelShape, gpu: Gpu, prompt: float) -> Need:
    """One rank of the learner."""
    learn = config.learn
    rows = row_parts(config, shape, prompt)
    parts = {**states(config, shape, learn.ranks), **rows, "CUDA": CONTEXT}
    room = gpu.memory * min(1.0, config.cluster.gpus_per_rank)
    least = _least_ranks(config, shape, room - CONTEXT - sum(rows.values()))
    help_ = [
        f"From {least} ranks it does with learn.zero_stage = {learn.zero_stage}"
        if least
        else f"No number of ranks helps with learn.zero_stage = {learn.zero_stage}",
        "a smaller learn.micro_batch takes less for logits and activations",
    ]
    if learn.zero_stage < 3:
        help_.append("learn.zero_stage = 3 divides the weights too")
    if not learn.gradient_checkpointing:
        help_.append("learn.gradient_checkpointing = true takes less for activations")
    host = learn.ranks * shape.parameters * BYTES[learn.precision]
    note = f"its nodes hold {gib(host)} GiB in host memory while the ranks load the policy"
    return Need("a rank of the learner", parts, room, "; ".join(help_) + ".", (note,))


def _least_ranks(config: Config, shape: ModelShape, room: float) -> int | None:
    """The fewest ranks on which the states leave room; None: not up to 1024."""
    return next((n for n in range(1, 1025) if sum(states(config, shape, n).values()) <= room), None)


# --- engines -------------------------------------------------------------------------------------


def _engine_parts(config: Config, shape: ModelShape, vocabulary: int) -> dict[str, float]:
    spans, width = config.generate.tensor_parallel_size, BYTES[config.generate.precision]
    step = STEP_TOKENS * (2 * shape.hidden + 2 * shape.intermediate / spans) * width
    logits = config.generate.max_sequences * vocabulary * 4.0 * 2
    return {
        "weights": width * shape.parameters / spans,
        "a step": step + logits,
        "CUDA graphs": GRAPHS,
        "CUDA": CONTEXT,
    }


def _cache(config: Config, shape: ModelShape, room: float, parts: Mapping[str, float]) -> float:
    """Tokens of key-value cache in what is left on the GPUs of one engine."""
    spans = config.generate.tensor_parallel_size
    return max(0.0, room - sum(parts.values())) * spans / shape.kv_bytes


def engine_need(config: Config, shape: ModelShape, gpu: Gpu) -> Need:
    """One generation engine, with a cache for at least one sequence of the longest length."""
    return _serving(config, shape, gpu, "a generation engine", shape.vocabulary)


def scorer_need(config: Config, shape: ModelShape, gpu: Gpu) -> Need:
    """One scoring engine; with `prm.log_likelihood` it computes token logits besides."""
    vocabulary = shape.vocabulary if config.prm.log_likelihood else 1
    return _serving(config, shape, gpu, "a scorer", vocabulary)


def _serving(config: Config, shape: ModelShape, gpu: Gpu, role: str, vocabulary: int) -> Need:
    generate = config.generate
    room = gpu.memory * generate.gpu_memory_utilization
    parts = _engine_parts(config, shape, vocabulary)
    tokens = _cache(config, shape, room, parts)
    spans = generate.tensor_parallel_size
    longest = generate.max_model_len * shape.kv_bytes / spans
    together = tokens / generate.max_model_len
    note = (
        f"its key-value cache holds {tokens:,.0f} tokens: {together:,.0f} sequences of "
        f"generate.max_model_len at once, of generate.max_sequences = {generate.max_sequences}"
    )
    advice = (
        f"A larger generate.tensor_parallel_size (now {spans}) divides the weights, a smaller "
        "generate.max_model_len takes less cache, generate.gpu_memory_utilization gives more room."
    )
    return Need(role, {**parts, "one sequence's cache": longest}, room, advice, (note,))
