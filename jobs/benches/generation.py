"""What the loop costs beside bare vLLM: sampled tokens that were accepted, by second of wall.

ours: the driver's own sampling of a purpose, from the first dispatch to the last acceptance: images
fetched, prompts made and checked, shards written, graded and selected from, every event in the
ledger. bare: as many vLLMs as the loop has engines, each in a process of its own with the same
threads; one `LLM.generate` in each, on its part of the same prompts, images, seeds and settings,
with the pictures open in memory. Every turn asks other questions, so no cache has seen them; all
engines are up before the first turn. What is asked is what the warm-up asks: the base explains
given answers.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.generation.engine_settings import (
    EngineSettings,
    common_options,
    engine_settings,
    runs_on_cpu,
)
from actors.generation.generator import prompt_of
from actors.model.images import StoreImages
from actors.model.processor import load_processor
from jobs.benches.record import Options, Result, by_turns
from jobs.runtime.check_models import check_models
from jobs.runtime.memory import PeakMemory
from jobs.runtime.prepare import images_of, load_data, upload_images
from jobs.runtime.world import running
from pipeline.config.schema import Config
from pipeline.datasets.images import decode
from pipeline.driver.context import RunContext
from pipeline.driver.driver import advance
from pipeline.driver.sample import SampleStep
from pipeline.errors import BadConfig
from pipeline.generation.shards import ShardSpec
from pipeline.grading.grade import grader_version
from pipeline.phases.steps import SampleShards
from pipeline.query import Query
from pipeline.refs import PolicyRef, ShardSet
from pipeline.run.ledger import Ledger
from pipeline.run.spec import RunSpec
from pipeline.stages.workers import Watch
from pipeline.storage.models import publish_folder
from pipeline.storage.store import Store, open_store

QUERIES, SAMPLES = 448, 8

BAR = 0.90
TOKENS = 100_000
"""What each side samples at least, in the turns that count."""


def generation(options: Options) -> Result:
    """As a run generates; by the row `generation-deterministic`, as one does that must end with the
    same bits however often it was killed."""
    deterministic = options.row == "generation-deterministic"
    run = options.config.run.model_copy(update={"deterministic": deterministic})
    config = options.config.model_copy(update={"run": run})
    check_models(config)
    dataset = load_data(config, options.say)
    engine = engine_settings(config)
    program = RunSpec.of(config, dataset, engine.identity(), grader_version(config.prompt.shapes))
    store = open_store(options.folder / "store", say=options.say)
    upload_images(store, dataset, images_of(program))
    policy = publish_folder(store, Path(config.policy.path), settings=config.model_settings)
    least = config.generate.engines * config.generate.shard_queries  # a shard for each engine
    small = options.small
    plan = Plan(program, policy, least if small else QUERIES, 2 if small else SAMPLES)
    with (
        PeakMemory(5.0, leave_out="ray::BareEngine") as memory,
        running(program, store, dataset, options.say) as world,
    ):
        ours = Ours(plan, RunContext(program, store, Ledger(store, options.row), world, Watch()))
        bare = Bare(plan, store, engine, Path(config.policy.path))
        values = by_turns(options.rounds, ours=ours.tokens_per_s, bare=bare.tokens_per_s)
    return Result(
        name=options.row,
        what="accepted sampled tokens by second: the loop's sampling, and one bare LLM.generate",
        unit="tokens/s",
        values=values,
        compared=("ours", "bare"),
        bar=None if deterministic else BAR,
        start_s={"ours": ours.first_s, "bare": bare.start_s},
        peak_mib=memory.total,
        too_little="" if options.small else shortfall(ours=ours.tokens, bare=bare.tokens),
        notes={
            "tokens": {"ours": ours.tokens, "bare": bare.tokens},
            "queries": plan.queries,
            "samples": plan.samples,
            "memory": memory.by_title,
        },
    )


def shortfall(**tokens: Sequence[int]) -> str:
    """Which side sampled fewer than `TOKENS` after its first turn, in words; "" if none did."""
    few = {side: sum(turns[1:]) for side, turns in tokens.items() if sum(turns[1:]) < TOKENS}
    return ", ".join(f"TOO FEW TOKENS: {side} {n} of {TOKENS}" for side, n in few.items())


@dataclass(frozen=True)
class Plan:
    """What is asked: in every turn `queries` others of the pool, each `samples` times."""

    program: RunSpec
    policy: PolicyRef
    queries: int
    samples: int

    def specs(self, turn: int) -> tuple[ShardSpec, ...]:
        """The shards of one turn."""
        config: Config = self.program.config
        pool = self.program.splits[config.data.train]
        drawn = pool[turn * self.queries : (turn + 1) * self.queries]
        if len(drawn) < self.queries:
            raise BadConfig(
                f"data.train: {len(pool)} queries are too few for turn {turn + 1} of "
                f"{self.queries}; use fewer --rounds"
            )
        sampling = self.program.sampling(self.samples, config.generate.temperature)
        return self.program.shard_specs(
            f"bench/{turn}", drawn, self.policy, sampling, prompt="warmup"
        )


class Ours:
    """The loop's sampling. first_s: of the turn that starts the engine."""

    def __init__(self, plan: Plan, context: RunContext) -> None:
        self.plan = plan
        self.context = context
        self.first_s = 0.0
        self.tokens: list[int] = []

    def tokens_per_s(self, turn: int) -> float:
        """One turn."""
        specs = self.plan.specs(turn)
        rule = self.plan.program.warmup_rule
        step = SampleShards("bench", ShardSet("bench", turn), specs, self.plan.policy, rule)
        begun = time.perf_counter()
        opened = SampleStep(step)
        while not opened.done:
            advance(self.context, [opened])
        seconds = time.perf_counter() - begun
        self.first_s = self.first_s or seconds
        self.tokens.append(self.context.state.closed[step.purpose]["tokens"])
        return self.tokens[-1] / seconds


class Bare:
    """As many vLLMs as the loop has, each in an actor of its own, and nothing around them."""

    def __init__(self, plan: Plan, store: Store, engine: EngineSettings, folder: Path) -> None:
        import ray

        self.plan = plan
        self.tokens: list[int] = []
        environment = {"env_vars": engine.environment()}
        actor = ray.remote(BareEngine).options(num_cpus=0, runtime_env=environment)
        self._engines = [
            actor.remote(engine, str(folder), StoreImages(store))
            for _ in range(plan.program.config.generate.engines)
        ]
        self.start_s: float = max(ray.get([one.start.remote() for one in self._engines]))

    def tokens_per_s(self, turn: int) -> float:
        """One turn, until the last engine is done; each has an equal part of the shards, and
        getting the requests ready does not count."""
        import ray

        by_hash = self.plan.program.by_hash
        shards = [
            (spec, [by_hash[item] for item in spec.queries_Q]) for spec in self.plan.specs(turn)
        ]
        engines, n = self._engines, len(self._engines)
        ray.get([each.prepare.remote(shards[i::n]) for i, each in enumerate(engines)])
        runs: list[tuple[float, int]] = ray.get([each.generate.remote() for each in engines])
        self.tokens.append(sum(tokens for _, tokens in runs))
        return self.tokens[-1] / max(seconds for seconds, _ in runs)


class BareEngine:
    """A vLLM built like the loop's, with vLLM's own cache of processed images instead of ours."""

    def __init__(self, settings: EngineSettings, folder: str, images: StoreImages) -> None:
        self._settings = settings
        self._folder = folder
        self._images = images
        self._llm: Any = None
        self._requests: list[tuple[dict[str, Any], Any]] = []

    def start(self) -> float:
        """Seconds until it can generate."""
        begun = time.perf_counter()
        from vllm import LLM

        folder, chunked = Path(self._folder), not runs_on_cpu()
        options = common_options(self._settings, folder, chunked_prefill=chunked)
        del options["mm_processor_cache_gb"]
        self._llm = LLM(model=self._folder, **options)
        return time.perf_counter() - begun

    def prepare(self, shards: Sequence[tuple[ShardSpec, Sequence[Query]]]) -> None:
        """The requests of these shards, their pictures open."""
        from vllm import SamplingParams

        processor = load_processor(Path(self._folder))
        self._requests = []
        for spec, queries_Q in shards:
            for query in queries_Q:
                text = prompt_of(spec, query, processor)
                prompt: dict[str, Any] = {"prompt": text}
                if query.images:
                    pictures = [decode(self._images(sha)) for sha in query.images]
                    prompt["multi_modal_data"] = {"image": pictures}
                    prompt["multi_modal_uuids"] = {"image": list(query.images)}
                for part in spec.parts(query.content_hash):
                    for seed in part.seeds:
                        params = SamplingParams(
                            seed=seed,
                            temperature=spec.sampling.temperature,
                            top_p=spec.sampling.top_p,
                            max_tokens=spec.sampling.max_new_tokens,
                            logprobs=0,
                        )
                        self._requests.append((prompt, params))

    def generate(self) -> tuple[float, int]:
        """Seconds and sampled tokens of one call with all of them."""
        prompts, params = zip(*self._requests, strict=True)
        begun = time.perf_counter()
        outputs = self._llm.generate(list(prompts), list(params), use_tqdm=False)
        seconds = time.perf_counter() - begun
        return seconds, sum(len(output.outputs[0].token_ids) for output in outputs)
