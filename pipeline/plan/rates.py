"""Rates: what one response, one query and one second come to. Measured in a run, or by default.

The defaults are assumptions, and say so. Speeds by default follow from the model's shape and the
GPU's data sheet: generation is bound by the memory that is read for each step, scoring and training
by arithmetic, each at the share of the data sheet's figure that good engines reach.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb

from pipeline.config.load import stored_config
from pipeline.config.schema import Config
from pipeline.config.selecting import SCORED
from pipeline.plan.gpus import Gpu
from pipeline.plan.measured import KindName, MeasuredRun, SetSums
from pipeline.plan.models import BYTES, ModelShape

DECODE, PREFILL, TRAINING = 0.45, 0.5, 0.3
"""Shares of the data sheet's bandwidth (decoding) and arithmetic (prefill, training) reached."""

CORRECT, RESPONSE, PROMPT, STEPS = 0.45, 300.0, 800.0, 6.0
"""By default: share of samples that are correct and distinct; tokens of a response and of a prompt
with its image; steps of a response."""

BYTES_PER_TOKEN, IMAGE_BYTES, EVENT_BYTES = 6.0, 120_000.0, 1400.0
"""By default: stored bytes of a sampled token (its id, log-probability and text), of an image, of
an event of the ledger."""

MIXED, AFTER_EARLY_STOP = 0.8, 0.8
"""By default: share of queries with a correct and a wrong response; share of steps that are
completed, because nothing follows a step of value 0."""


@dataclass(frozen=True)
class Response:
    """One sampled response of a kind: tokens of its prompt and of itself, the share that is correct
    and distinct, stored bytes of each of its files (select: of one that is kept)."""

    prompt_tokens: float
    tokens: float
    correct: float
    rollout_bytes: float
    grade_bytes: float
    score_bytes: float
    select_bytes: float

    @property
    def length(self) -> float:
        """Tokens of prompt and response."""
        return self.prompt_tokens + self.tokens


@dataclass(frozen=True)
class Speeds:
    """Tokens a second: sampled by one engine; read by one scorer and trained on by one rank, prompt
    and response together. None: nobody knows."""

    engine: float | None = None
    scorer: float | None = None
    rank: float | None = None


@dataclass(frozen=True)
class Rates:
    """What a plan multiplies.

    source: measured where, or that these are defaults. kept: responses kept of a query in warm-up
    and evolution. labelled: responses of a query whose steps get values; trained: the share of them
    that a PRM is trained on; prefixes: steps completed of each. rounds: of the warm-up's training.
    gate: whether the process reward model passes it; one that does not scores no iteration.
    """

    source: str
    responses: Mapping[KindName, Response]
    kept: Mapping[str, float]
    labelled: float
    trained: float
    prefixes: float
    speeds: Speeds
    rounds: int | None = None
    image_bytes: float = IMAGE_BYTES
    event_bytes: float = EVENT_BYTES
    gate: bool = True


def expected_kept(samples: int, most: int | None, correct: float) -> float:
    """Expected number of correct ones among K samples, at most `most`: min(k, Binomial(K, p))."""
    if most is None:
        return samples * correct
    odds = [
        comb(samples, n) * correct**n * (1 - correct) ** (samples - n) for n in range(samples + 1)
    ]
    return sum(min(n, most) * p for n, p in enumerate(odds))


def warmup_kept(config: Config, correct: float) -> float:
    """Chains kept of a query by the warm-up's rule."""
    return expected_kept(config.warmup.samples, config.warmup.keep, correct)


def evolve_kept(config: Config, correct: float) -> float:
    """Responses kept of a query by evolution's rule."""
    most = config.select.k if config.select.rule in ("top_k", "bottom_k", "random_k") else None
    return expected_kept(config.generate.samples, most, correct)


def scored_share(config: Config, correct: float) -> float:
    """Share of an iteration's samples that a process reward model scores; correct: the share that
    is correct."""
    if config.select.reward != "prm":
        return 0.0
    if config.prm.scoring == "all":
        return 1.0
    return correct if config.select.rule in SCORED and config.select.by == "prm" else 0.0


# --- by default ----------------------------------------------------------------------------------


def default_rates(config: Config, shape: ModelShape, gpu: Gpu | None) -> Rates:
    """Rates by default. gpu: what the roles run on; None: CPUs, whose speeds nobody knows."""
    longest = float(config.generate.max_new_tokens)
    response = min(RESPONSE, longest)
    tokens: dict[KindName, float] = {
        "warmup": response, "question": response, "greedy": response, "completion": response / 2,
    }  # fmt: skip
    prompt = min(PROMPT, config.generate.max_model_len - longest)
    responses = {
        kind: Response(
            prompt, count, CORRECT, BYTES_PER_TOKEN * count + 100, 20.0, 60.0,
            BYTES_PER_TOKEN * count + 150,
        )
        for kind, count in tokens.items()
    }  # fmt: skip
    return Rates(
        source="defaults, not measured: give a run to measure, even one that has just begun",
        responses=responses,
        kept={"warmup": warmup_kept(config, CORRECT), "evolve": evolve_kept(config, CORRECT)},
        labelled=2 * config.prm.pairs * MIXED,
        trained=1 - config.prm.held_out,
        prefixes=STEPS * (AFTER_EARLY_STOP if config.prm.early_stop else 1.0),
        speeds=Speeds() if gpu is None else default_speeds(config, shape, gpu),
    )


def default_speeds(config: Config, shape: ModelShape, gpu: Gpu) -> Speeds:
    """Speeds by the roofline. A step of decoding reads the weights and every running sequence's
    cache; reading a token takes 2, training on one 6 operations a parameter, 8 with gradient
    checkpointing."""
    spans = config.generate.tensor_parallel_size
    weights = shape.parameters * BYTES[config.generate.precision]
    context = min(PROMPT + RESPONSE / 2, config.generate.max_model_len)
    room = max(0.0, gpu.memory * config.generate.gpu_memory_utilization * spans - weights)
    running = max(1.0, min(config.generate.max_sequences, room / (shape.kv_bytes * context)))
    step_bytes = weights + running * context * shape.kv_bytes
    operations = 8 if config.learn.gradient_checkpointing else 6
    return Speeds(
        engine=running * DECODE * gpu.bandwidth * spans / step_bytes,
        scorer=PREFILL * gpu.flops * spans / (2 * shape.parameters),
        rank=TRAINING * gpu.flops / (operations * shape.parameters),
    )


# --- measured ------------------------------------------------------------------------------------


def measured_rates(run: MeasuredRun, config: Config, default: Rates) -> Rates:
    """The rates of a run, for a plan of `config`; of what it has not come to, the defaults.

    What is kept of a query and labelled of it is scaled where the rule is another one.
    """
    theirs = stored_config(run.config)
    responses = dict(default.responses)
    of_kind: dict[KindName, list[SetSums]] = defaultdict(list)
    for one in run.sets:
        of_kind[one.kind].append(one)
    for kind, sets in of_kind.items():
        responses[kind] = _response(_of_trained(sets), run.prompt_tokens.get(kind), responses[kind])
    labels, completed = run.labels, sum(one.samples for one in of_kind["completion"])
    labelled, trained, prefixes = default.labelled, default.trained, default.prefixes
    if labels is not None and labels["cost"]["responses"]:
        of_query = labels["cost"]["responses"] / labels["counts"]["questions"]
        labelled = of_query * config.prm.pairs / theirs.prm.pairs
        trained = labels["trained"] / labels["cost"]["responses"]
        prefixes = completed / theirs.prm.completions / labels["cost"]["responses"]
    return Rates(
        source=f"measured in run {run.run}: {len(run.sets)} sets of shards, {len(run.jobs)} jobs",
        responses=responses,
        kept={**default.kept, **_kept(run, theirs, config, responses)},
        labelled=labelled,
        trained=trained,
        prefixes=prefixes,
        speeds=_speeds(run, theirs, responses, default.speeds),
        rounds=sum(job.job.startswith("warmup/") for job in run.jobs) or None,
        image_bytes=run.stored.get("images", 0) / run.images if run.images else IMAGE_BYTES,
        event_bytes=run.stored.get("runs", 0) / run.events if run.events else EVENT_BYTES,
        gate=_passed(run, theirs) or config.prm.use_anyway,
    )


def _passed(run: MeasuredRun, theirs: Config) -> bool:
    """False where a run has a process reward model, and its iterations went on without it."""
    sets = [one for one in run.sets if one.stage == "evolve/generate"]
    return not sets or not scored_share(theirs, 1.0) or any(one.bytes["score"] for one in sets)


def _of_trained(sets: Sequence[SetSums]) -> Sequence[SetSums]:
    """Without the base policy's, which answers otherwise; unless there is nothing else."""
    return [one for one in sets if one.stage != "base/evaluate"] or sets


def _response(sets: Sequence[SetSums], prompt: float | None, default: Response) -> Response:
    samples = max(1, sum(one.samples for one in sets))
    scored = [one for one in sets if one.bytes["score"]]
    kept = sum(one.kept for one in sets)
    return Response(
        prompt_tokens=default.prompt_tokens if prompt is None else prompt,
        tokens=sum(one.tokens for one in sets) / samples,
        correct=sum(one.correct for one in sets) / samples,
        rollout_bytes=sum(one.bytes["rollout"] for one in sets) / samples,
        grade_bytes=sum(one.bytes["grade"] for one in sets) / samples,
        score_bytes=sum(one.bytes["score"] for one in scored)
        / max(1, sum(one.samples for one in scored)),
        select_bytes=sum(one.bytes["select"] for one in sets) / kept if kept else 0.0,
    )


def _kept(
    run: MeasuredRun, theirs: Config, config: Config, responses: Mapping[KindName, Response]
) -> dict[str, float]:
    """Responses kept of a query, by phase."""
    found = {}
    for phase, kind, rule in (
        ("warmup", "warmup", warmup_kept),
        ("evolve", "question", evolve_kept),
    ):
        sets = [one for one in run.sets if one.stage == f"{phase}/generate"]
        queries = sum(one.queries for one in sets)
        share = responses[kind].correct  # type: ignore[index]
        expected = rule(theirs, share)
        if queries and expected:
            of_query = sum(one.kept for one in sets) / queries
            found[phase] = of_query * rule(config, share) / expected
    return found


def _speeds(
    run: MeasuredRun, theirs: Config, responses: Mapping[KindName, Response], default: Speeds
) -> Speeds:
    """Of engines while evolution or warm-up sampled, of ranks while one of them trained, of scorers
    by the seconds of their shards."""
    engine, scorer, rank = default.engine, default.scorer, default.rank
    for stage in ("warmup/generate", "evolve/generate"):
        tokens = sum(one.tokens for one in run.sets if one.stage == stage)
        seconds = run.stage_s.get(stage, 0.0)
        if tokens and seconds:
            engine = tokens / seconds / theirs.generate.engines
    for stage, kind in (("warmup/learn", "warmup"), ("evolve/learn", "question")):
        jobs = [job for job in run.jobs if job.stage == stage]
        prompt = responses[kind].prompt_tokens  # type: ignore[index]
        trained = sum(job.tokens + job.rows * prompt for job in jobs)
        seconds = run.stage_s.get(stage, 0.0)
        if trained and seconds:
            rank = trained / seconds / theirs.learn.ranks
    scored = [one for one in run.sets if one.score_s]
    read = sum(_read_tokens(one, theirs, responses["question"].prompt_tokens) for one in scored)
    if read:
        scorer = read / sum(one.score_s for one in scored)
    return Speeds(engine, scorer, rank)


def _read_tokens(one: SetSums, theirs: Config, prompt: float) -> float:
    """Tokens that scorers read of a set: each prompt once, and the responses that are scored."""
    scored = one.samples if theirs.prm.scoring == "all" else one.correct
    return scored * one.tokens / max(1, one.samples) + one.queries * prompt
