"""The stages of a run before it is started: samples, tokens, rows, bytes, requests, seconds.

A pure product of the recipe, the data's sizes and the rates. Where a run decides on the way (the
warm-up stops when validation is flat; a control or final policy may have been evaluated already)
the plan takes the longer way, so it is a little above what is spent.

Not in it: starting engines, loading and publishing policies, waiting for nodes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction

from pipeline.config.schema import Config
from pipeline.plan.gpus import Gpu
from pipeline.plan.measured import KindName
from pipeline.plan.models import BYTES, ModelShape
from pipeline.plan.rates import Rates, scored_share

WRITE, READ, LIST, COMMIT = 2, 1, 1, 2
"""Requests of the store: an object written (looked for, put), read, a folder listed, an entry of
the ledger (created, and the lease renewed meanwhile)."""

OBJECT_PART = 16 * 2**20
"""Bytes of one request of a large object."""

CHECKPOINT_BYTES = 12
"""Of a parameter in a checkpoint: master weight and Adam's two moments, float32."""


@dataclass(frozen=True)
class Sizes:
    """Labelled queries that a run uses: to train on, to validate, in each test split; how many
    images they show; and how many unlabelled queries it uses."""

    pool: int
    validation: int
    tests: tuple[int, ...]
    images: int
    unlabelled: int = 0


@dataclass(frozen=True)
class Stage:
    """What one stage comes to, all iterations together.

    samples, tokens: sampled. scored: samples. rows, steps: trained on. written: bytes, of which
    `kept` lie in the store at the end. engine_s, scorer_s, rank_s: seconds of one, summed over all
    of them; None: nobody knows.
    """

    name: str
    samples: int = 0
    tokens: float = 0.0
    scored: float = 0.0
    rows: float = 0.0
    steps: int = 0
    written: float = 0.0
    kept: float = 0.0
    requests: float = 0.0
    engine_s: float | None = 0.0
    scorer_s: float | None = 0.0
    rank_s: float | None = 0.0


@dataclass(frozen=True)
class Forecast:
    """A plan's inputs; its stages follow."""

    config: Config
    sizes: Sizes
    rates: Rates
    shape: ModelShape
    gpu: Gpu | None

    @property
    def policy_bytes(self) -> float:
        """A policy's folder, as the learner publishes it."""
        return float(self.shape.parameters * BYTES[self.config.learn.precision])

    @property
    def stages(self) -> list[Stage]:
        """Every stage in the order of a run."""
        return list(_stages(self))


def _stages(plan: Forecast) -> Iterator[Stage]:
    config = plan.config
    yield _prepared(plan)
    yield _evaluated(plan, "base/evaluate", full=1, tests=1)
    yield from _warmup(plan)
    if config.select.reward == "prm" and config.prm.path is None:
        yield from _prm(plan)
    turns, rows = config.evolve.iterations, _rows(plan)
    if turns:
        yield from _evolution(plan)
        yield _trained(plan, "evolve/learn", rows, turns, "question", kept_checkpoints=1)
        yield _evaluated(plan, "evolve/evaluate", full=turns, scored=config.prm.scoring != "needed")
        yield from _explored(plan)
    if turns and config.evolve.control:
        yield from _control_chains(plan)
        yield _trained(plan, "control/learn", rows, turns, "warmup", kept_checkpoints=1)
        yield _evaluated(plan, "control/evaluate", greedy=turns, full=1, tests=1)
    if turns:
        yield _evaluated(plan, "final/evaluate", tests=1)


def _evolution(plan: Forecast) -> Iterator[Stage]:
    """What the iterations sample: of labelled queries, and of unlabelled ones."""
    config, sizes, rates = plan.config, plan.sizes, plan.rates
    turns, samples = config.evolve.iterations, config.generate.samples
    if config.evolve.method == "sft":
        return
    yield _sampled(
        plan, "evolve/generate", "question", _slice(config, sizes.pool), samples, times=turns,
        scored=_scored_share(config, rates), kept=rates.kept["evolve"],
    )  # fmt: skip
    if sizes.unlabelled:
        yield _sampled(
            plan, "unlabelled/generate", "question", _slice(config, sizes.unlabelled), samples,
            times=turns - _unmixed(config), scored=_voted_share(config, rates),
            kept=rates.kept["evolve"],
        )  # fmt: skip


def _rows(plan: Forecast) -> float:
    """What an iteration trains on, on average; of `sft`, an answer of each query."""
    config, sizes = plan.config, plan.sizes
    turns, drawn = config.evolve.iterations, float(_slice(config, sizes.pool))
    if config.evolve.method == "sft":
        return drawn * config.evolve.epochs
    if turns:
        drawn += _slice(config, sizes.unlabelled) * (turns - _unmixed(config)) / turns
    return drawn * plan.rates.kept["evolve"] * config.evolve.epochs


def _unmixed(config: Config) -> int:
    """Iterations before the first that draws unlabelled queries."""
    return math.ceil(config.unlabelled.mix_in * config.evolve.iterations)


def _warmup(plan: Forecast) -> Iterator[Stage]:
    config, rates = plan.config.warmup, plan.rates
    if config.checkpoint is not None:
        yield _evaluated(plan, "warmup/evaluate", full=1, tests=1)
        return
    queries = min(plan.sizes.pool, config.queries or plan.sizes.pool)
    kept = rates.kept["warmup"]
    yield _sampled(plan, "warmup/generate", "warmup", queries, config.samples, kept=kept)
    most = -(-config.epochs // config.epochs_per_evaluation)
    rounds = min(most, rates.rounds or most)
    epochs = min(config.epochs, config.epochs_per_evaluation)
    yield _trained(plan, "warmup/learn", queries * kept * epochs, rounds, "warmup")
    # The chosen round has its greedy figures already.
    yield _evaluated(plan, "warmup/evaluate", greedy=rounds - 1, full=1, tests=1)


def _explored(plan: Forecast) -> Iterator[Stage]:
    """Validation questions at the temperatures of searches and dynamics; what both ask for is
    sampled once, and greedy answers are there."""
    config, turns = plan.config, plan.config.evolve.iterations
    explore, dynamics, today = config.explore, config.dynamics, config.generate.temperature
    times = {"explore": 0, "dynamics": 0}
    for t in range(turns + 1):
        there: set[tuple[float, int, int]] = set()
        for name, of, last in (("explore", explore, turns - 1), ("dynamics", dynamics, turns)):
            if not of.every or t % of.every or t > last:
                continue
            queries = min(plan.sizes.validation, of.queries or plan.sizes.validation)
            grid = {*of.grid, today} if name == "explore" else {*of.grid}
            narrow = t > 0 and name == "explore" and explore.nearest is not None
            few = sorted(grid, key=lambda one: (abs(one - today), one))
            wanted = {
                (one, of.samples, queries) for one in (few[: explore.nearest] if narrow else few)
            }
            times[name] += len(wanted - there)
            there |= wanted
    for name, of in (("explore", explore), ("dynamics", dynamics)):
        if times[name]:
            queries = min(plan.sizes.validation, of.queries or plan.sizes.validation)
            with_prm = config.select.reward == "prm" and plan.rates.gate
            ranks = bool(dynamics.every) or explore.by == "reward_pass_2"
            yield _sampled(
                plan, f"{name}/generate", "question", queries, of.samples, times=times[name],
                scored=float(with_prm and ranks), shard_queries=config.evaluate.shard_queries,
            )  # fmt: skip


def _control_chains(plan: Forecast) -> Iterator[Stage]:
    """Chains of the queries that the evolution sees and the warm-up has none of (by rules 1 there
    are none: the control trains on the warm-up's)."""
    config, pool = plan.config, plan.sizes.pool
    of_warmup = 0 if config.warmup.checkpoint else min(pool, config.warmup.queries or pool)
    drawn = min(pool, _slice(config, pool) * config.evolve.iterations)
    others = round(drawn * (1 - of_warmup / pool))
    if config.run.rules > 1 and others:
        kept = plan.rates.kept["warmup"]
        samples = config.warmup.samples
        yield _sampled(plan, "control/generate", "warmup", others, samples, kept=kept)


def _prm(plan: Forecast) -> Iterator[Stage]:
    prm, rates = plan.config.prm, plan.rates
    queries = min(plan.sizes.pool, prm.queries or plan.sizes.pool)
    yield _sampled(plan, "prm/generate", "question", queries, prm.samples)
    labelled = queries * rates.labelled
    prefixes = round(labelled * rates.prefixes)
    yield _sampled(plan, "prm/annotate", "completion", prefixes, prm.completions)
    # A folder with a head to begin with, and the trained one.
    rows = labelled * rates.trained * prm.epochs
    yield _trained(plan, "prm/learn", rows, 1, "question", policies=2)
    response = rates.responses["question"]
    held_out = labelled * (1 - rates.trained)
    yield Stage(
        "prm/judge",
        scored=held_out,
        written=held_out * response.score_bytes,
        kept=held_out * response.score_bytes,
        scorer_s=_over(held_out * response.length, rates.speeds.scorer),
    )


def _slice(config: Config, pool: int) -> int:
    return math.floor(Fraction(config.evolve.interval).limit_denominator(1_000_000) * pool)


def _scored_share(config: Config, rates: Rates) -> float:
    """Share of an iteration's samples that the process reward model scores."""
    return scored_share(config, rates.responses["question"].correct) if rates.gate else 0.0


def _voted_share(config: Config, rates: Rates) -> float:
    """Share of the samples of unlabelled queries that are scored: all that vote by a reward."""
    by_prm = config.unlabelled.use == "pseudo" and config.unlabelled.vote == "prm"
    return 1.0 if by_prm and rates.gate else _scored_share(config, rates)


def _over(amount: float, speed: float | None) -> float | None:
    return amount / speed if speed is not None else (0.0 if amount == 0 else None)


# --- kinds of stages -----------------------------------------------------------------------------


def _prepared(plan: Forecast) -> Stage:
    """Images, the base policy, the table of queries."""
    stored = plan.sizes.images * plan.rates.image_bytes + plan.policy_bytes
    parts = plan.policy_bytes / OBJECT_PART
    return Stage("prepare", written=stored, kept=stored, requests=WRITE * plan.sizes.images + parts)


def _sampled(
    plan: Forecast,
    name: str,
    kind: KindName,
    queries: int,
    samples: int,
    *,
    times: int = 1,
    scored: float = 0.0,
    kept: float = 0.0,
    shard_queries: int | None = None,
) -> Stage:
    """Shards that are generated, graded, scored and selected from.

    scored: share of the samples. kept: responses of a query.
    """
    response, speeds = plan.rates.responses[kind], plan.rates.speeds
    total = queries * samples * times
    shards = times * -(-queries // (shard_queries or plan.config.generate.shard_queries))
    tokens = total * response.tokens
    objects = 2 + (scored > 0) + (kept > 0)
    stored = total * (response.rollout_bytes + response.grade_bytes)
    # Score files hold a row of each scored sample; their measured mean is over all samples.
    stored += total * response.score_bytes * (scored > 0)
    stored += queries * times * kept * response.select_bytes
    stored += shards * (2 + (scored > 0)) * plan.rates.event_bytes
    reads = 1 + 2 * (scored > 0) + (kept > 0)
    read_tokens = total * scored * response.tokens + queries * times * response.prompt_tokens
    return Stage(
        name,
        samples=total,
        tokens=tokens,
        scored=total * scored,
        written=stored,
        kept=stored,
        requests=shards * (objects * WRITE + reads * READ + LIST + (2 + (scored > 0)) * COMMIT)
        + queries * times * READ * (1 + (scored > 0)),
        engine_s=_over(tokens, speeds.engine),
        scorer_s=_over(read_tokens, speeds.scorer) if scored else 0.0,
    )


def _trained(
    plan: Forecast,
    name: str,
    rows: float,
    jobs: int,
    kind: KindName,
    *,
    policies: int = 1,
    kept_checkpoints: int = 0,
) -> Stage:
    """Jobs of this many rows each. policies: folders published by each."""
    learn = plan.config.learn
    steps = math.ceil(rows / learn.batch_size)
    inside = (steps - 1) // learn.checkpoint_steps if learn.checkpoint_steps and steps else 0
    checkpoint = float(plan.shape.parameters * CHECKPOINT_BYTES)
    published = jobs * policies * plan.policy_bytes
    written = published + jobs * (1 + inside) * checkpoint
    length = plan.rates.responses[kind].length
    return Stage(
        name,
        rows=rows * jobs,
        steps=steps * jobs,
        written=written,
        kept=published + kept_checkpoints * checkpoint,
        requests=written / OBJECT_PART + jobs * COMMIT + jobs * rows * READ,
        rank_s=_over(rows * jobs * length, plan.rates.speeds.rank),
    )


def _evaluated(
    plan: Forecast,
    name: str,
    *,
    greedy: int = 0,
    full: int = 0,
    tests: int = 0,
    scored: bool = False,
) -> Stage:
    """Policies evaluated: `greedy` of them greedily on validation, `full` also sampled there,
    `tests` on the test splits. scored: whether validation samples are."""
    sizes, evaluate = plan.sizes, plan.config.evaluate
    asked: list[tuple[KindName, int, int, int, float]] = [
        ("greedy", sizes.validation, 1, greedy + full, 0.0),
        ("question", sizes.validation, evaluate.samples, full, float(scored)),
    ]
    for split in sizes.tests:
        asked.append(("greedy", split, 1, tests, 0.0))
        asked.append(("question", split, evaluate.test_samples, tests, 0.0))
    parts = [
        _sampled(
            plan, name, kind, queries, samples, times=times,
            scored=share, shard_queries=evaluate.shard_queries,
        )
        for kind, queries, samples, times, share in asked
        if samples and times
    ]  # fmt: skip
    return summed(name, parts)


def summed(name: str, parts: list[Stage]) -> Stage:
    """Stages together; unknown seconds stay unknown."""

    def total(field: str) -> float | None:
        values = [getattr(part, field) for part in parts]
        return None if None in values else sum(values)

    fields = [field for field in Stage.__dataclass_fields__ if field != "name"]
    return Stage(name, **{field: total(field) for field in fields})  # type: ignore[arg-type]


# --- what it comes to ----------------------------------------------------------------------------


def engine_gpus(config: Config) -> float:
    """GPUs of one engine, and of one scorer."""
    return config.cluster.gpus_per_engine * config.generate.tensor_parallel_size


def gpus_held(config: Config) -> Mapping[str, float]:
    """GPUs of each role when all its members are there."""
    scorers = config.prm.scorers if config.select.reward == "prm" else 0
    return {
        "engines": config.generate.engines * engine_gpus(config),
        "scorers": scorers * engine_gpus(config),
        "ranks": config.learn.ranks * config.cluster.gpus_per_rank,
    }


def wall_s(stage: Stage, config: Config) -> float | None:
    """Seconds that a stage takes: engines and scorers work side by side, then the ranks."""
    parts = (
        (stage.engine_s, config.generate.engines),
        (stage.scorer_s, config.prm.scorers),
        (stage.rank_s, config.learn.ranks),
    )
    seconds = [None if total is None else total / count for total, count in parts]
    if seconds[0] is None or seconds[1] is None or seconds[2] is None:
        return None
    return max(seconds[0], seconds[1]) + seconds[2]


def gpu_s(stage: Stage, config: Config) -> float | None:
    """GPU-seconds in which a stage's members work."""
    if stage.engine_s is None or stage.scorer_s is None or stage.rank_s is None:
        return None
    of_engine = engine_gpus(config)
    return (
        stage.engine_s * of_engine
        + stage.scorer_s * of_engine
        + stage.rank_s * config.cluster.gpus_per_rank
    )
