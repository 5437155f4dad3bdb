"""What scoring costs beside one bare vLLM, and what reusing prefixes saves: responses by second.

ours: the loop's scorer, from the graded shards in the store to scores and selections in it. bare:
one `LLM.encode` on the same tokens and images, prefix reuse on, in a process of its own with the
same threads; what it loses to cache hits it simply does not return. Every turn scores other texts.

Both serve the same folder: the recipe's policy with a head of noise, as what scores say plays no
part in what they cost. The head sees what the recipe's does: with `prm.log_likelihood` also how
likely the model finds each token of the response, which bare vLLM is then made to compute by the
very same pooler, from requests that ask for the same tokens. So both do the same work on the model;
ours adds store, steps, memo, the scores that cache hits hid, and the recipe's aggregate and
selection.

Responses are lines of digits, so each has its own text, four steps, and a prompt of at least
`PROMPT_TOKENS`.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from actors.generation.engine_settings import EngineSettings, engine_settings
from actors.model.images import StoreImages
from actors.model.processor import Processor, load_processor
from actors.model.value_head import HEAD, LIKELIHOOD_KEY, read_likelihood, write_headed
from actors.scoring.pool_scorer import PoolScorer, scorer_pool
from actors.scoring.vllm_scorer import VllmScorer, pooling_params, start_pooling
from jobs.benches.record import Options, Result, by_turns
from jobs.runtime.check_models import check_models
from jobs.runtime.prepare import load_data, upload_images
from jobs.runtime.ray_cluster import start_ray
from pipeline.datasets.images import decode
from pipeline.driver.context import POLL_S
from pipeline.errors import BadModel
from pipeline.grading.grade import grader_version
from pipeline.prm.step_scores import ScoreRequest
from pipeline.prompts import prompt_hash
from pipeline.query import Query
from pipeline.records import Grade, Rollout
from pipeline.refs import PolicyRef
from pipeline.responses import step_ends
from pipeline.run.shard_answers import ScoreDone
from pipeline.run.spec import RunSpec
from pipeline.selection.rules import Rule
from pipeline.stages.score import ScoreTask, Scoring
from pipeline.storage.artifacts import put_content
from pipeline.storage.models import publish_folder
from pipeline.storage.parquet import to_parquet
from pipeline.storage.store import open_store

QUERIES, SAMPLES, STEPS = 64, 16, 4

PROMPT_TOKENS = 100

BAR, REUSE_BAR = 0.90, 2.0

# What a nat of log-likelihood adds to a step's logit; a head that left it out would be seen at 0.
LIKELIHOOD_WEIGHT = 0.01


def scoring(options: Options) -> Result:
    """The loop's scoring against a bare engine."""
    bench = Bench(options)
    with start_ray(bench.config):
        pool = scorer_pool(bench.config, bench.store, options.say)
        scorer = PoolScorer(pool)
        bare = bench.actor()
        values = by_turns(
            options.rounds,
            ours=lambda turn: bench.through(scorer, turn),
            bare=lambda turn: bench.bare(bare, turn),
        )
        pool.close()
    return Result(
        name="scoring",
        what="responses scored by second: the loop's scorer, and one bare LLM.encode",
        unit="responses/s",
        values=values,
        compared=("ours", "bare"),
        bar=BAR,
        notes=bench.notes,
    )


def scoring_reuse(options: Options) -> Result:
    """The scoring engine with prefix reuse, and without."""
    bench = Bench(options)
    with start_ray(bench.config):
        actors = {reuse: bench.actor(reuse) for reuse in (True, False)}
        values = by_turns(
            options.rounds,
            reuse=lambda turn: bench.engine_alone(actors[True], turn),
            whole=lambda turn: bench.engine_alone(actors[False], turn),
        )
    return Result(
        name="scoring-reuse",
        what="responses scored by second: shared prefixes computed once, and every time",
        unit="responses/s",
        values=values,
        compared=("reuse", "whole"),
        bar=REUSE_BAR,
        notes=bench.notes,
    )


class Bench:
    """The model, the questions, and the responses of each turn."""

    def __init__(self, options: Options) -> None:
        select = options.config.select.model_copy(update={"reward": "prm", "rule": "top_k"})
        self.config = options.config.model_copy(update={"select": select})
        check_models(self.config)
        dataset = load_data(self.config, options.say)
        self.engine = engine_settings(self.config)
        program = RunSpec.of(
            self.config, dataset, self.engine.identity(), grader_version(self.config.prompt.shapes)
        )
        self.samples = 2 if options.small else SAMPLES
        pool = program.splits[self.config.data.train][: 4 if options.small else QUERIES]
        words = " ".join(["Look at it again."] * (PROMPT_TOKENS // 4))
        self.queries = [replace(q, question=f"{words} {q.question}") for q in pool]
        self.store = open_store(options.folder / "store", say=options.say)
        upload_images(self.store, dataset, [sha for q in self.queries for sha in q.images])
        self.folder = with_noise(
            Path(self.config.policy.path),
            options.folder / "prm",
            likelihood=self.config.prm.log_likelihood,
        )
        self.prm = publish_folder(self.store, self.folder)
        self.processor = load_processor(self.folder)
        self.notes: dict[str, Any] = {
            "queries": len(self.queries),
            "samples": self.samples,
            "steps": STEPS,
            "head": "hidden state" + " and log-likelihood" * self.config.prm.log_likelihood,
        }
        self.notes["prompt_tokens"] = self.shortest_prompt()

    def shortest_prompt(self, allowed: int = PROMPT_TOKENS) -> int:
        """Tokens of the shortest prompt, image tokens included.

        Raises:
            BadModel: it is shorter than the bar for reuse is about.
        """
        least = min(len(self._prompt(query)[1]) for query in self.queries)
        if least < allowed:
            raise BadModel(
                f"{self.folder}: its tokenizer makes {least} tokens of a prompt that is to have "
                f"{PROMPT_TOKENS} at least: ask more words in jobs/benches/scoring.py"
            )
        return least

    def _prompt(self, query: Query) -> tuple[str, Sequence[int]]:
        """A question as it is asked: text, and tokens with the images' places."""
        templates = self.config.prompt.templates
        prompt = self.processor.prompt(templates.text(query), len(query.images), templates.system)
        return prompt, self.processor.input_ids(prompt, query.images, self._open)

    def actor(self, reuse: bool = True) -> Any:
        """An engine in a process of its own."""
        import ray

        environment = {"env_vars": self.engine.environment()}
        made = ray.remote(ScoringEngine).options(num_cpus=0, runtime_env=environment)
        return made.remote(self.engine, str(self.folder), StoreImages(self.store), reuse)

    def texts(self, turn: int, query: int) -> Iterator[str]:
        """The responses to a question in a turn, all different."""
        rng = random.Random(f"scoring/{turn}/{query}")
        for _ in range(self.samples):
            steps = ["plus ".join(str(rng.randrange(100)) for _ in range(4)) for _ in range(STEPS)]
            yield "\n\n".join([*steps, "# Answer", str(rng.randrange(100))])

    def requests(self, turn: int) -> list[ScoreRequest]:
        """The same responses as an engine is asked about them."""
        made = []
        for number, query in enumerate(self.queries):
            prompt, _ = self._prompt(query)
            for text in self.texts(turn, number):
                ids = tokens(self.processor, text)
                ends = tuple(step_ends(ids, self.processor.decode))
                made.append(ScoreRequest(prompt, query.images, ids, ends))
        return made

    def engine_alone(self, actor: Any, turn: int) -> float:
        """Responses by second of the scoring engine, without store and pool."""
        import ray

        requests = self.requests(turn)
        seconds: float = ray.get(actor.score.remote(requests))
        return len(requests) / seconds

    def bare(self, actor: Any, turn: int) -> float:
        """Responses by second of vLLM itself."""
        import ray

        requests = self.requests(turn)
        ray.get(actor.prepare.remote(requests))
        seconds: float = ray.get(actor.encode.remote())
        return len(requests) / seconds

    def through(self, scorer: PoolScorer, turn: int) -> float:
        """Responses by second of the loop's scorer, from graded shards to selections."""
        per_shard = self.config.generate.shard_queries
        places = range(0, len(self.queries), per_shard)
        tasks = [
            self._task(turn, start, self.queries[start : start + per_shard]) for start in places
        ]
        begun = time.perf_counter()
        for task in tasks:
            scorer.submit(task)
        left = len(tasks)
        while left:
            time.sleep(POLL_S)  # as the driver does
            for answer in scorer.poll():
                if not isinstance(answer, ScoreDone):
                    raise RuntimeError(f"scoring: {answer.reason}")
                left -= 1
        return self.samples * len(self.queries) / (time.perf_counter() - begun)

    def _task(self, turn: int, start: int, queries: Sequence[Query]) -> ScoreTask:
        rollouts: list[Rollout] = []
        for number, query in enumerate(queries, start):
            rollouts += self._rollouts(turn, number, query)
        grades = [Grade(row.query, row.sample_index, "correct", "7") for row in rollouts]
        key = f"bench-{turn}-{start}"
        return ScoreTask(
            key=key,
            rollout=put_content(
                self.store, "rollout", key, to_parquet(rollouts, Rollout), "parquet"
            ),
            grades=put_content(self.store, "grade", key, to_parquet(grades, Grade), "parquet"),
            queries_Q=tuple(queries),
            prompt="question",
            scoring=Scoring(
                PolicyRef(self.prm.version, self.prm.path), "right", self.config.prm.aggregate
            ),
            rule=Rule("top_k", 2),
            seed=0,
        )

    def _rollouts(self, turn: int, number: int, query: Query) -> Iterator[Rollout]:
        _, ids = self._prompt(query)
        for index, text in enumerate(self.texts(turn, number)):
            token_ids = tokens(self.processor, text)
            yield Rollout(
                query=query.content_hash,
                query_id=query.query_id,
                sample_index=index,
                seed=index,
                policy="bench",
                temperature=1.0,
                top_p=1.0,
                prompt_sha256=prompt_hash(ids),
                prompt_tokens=len(ids),
                token_ids=token_ids,
                logprobs=(0.0,) * len(token_ids),
                text=text,
                finish="stop",
            )

    def _open(self, sha: str) -> Any:
        return decode(StoreImages(self.store)(sha))


def tokens(processor: Processor, text: str) -> tuple[int, ...]:
    """A written response as ids."""
    return tuple(processor.tokenizer(text, add_special_tokens=False)["input_ids"])


def with_noise(policy: Path, folder: Path, *, likelihood: bool) -> Path:
    """The policy with a head of noise, which sees what the model finds likely or does not."""
    import torch
    from safetensors.torch import load_file, save_file

    made = write_headed(policy, folder, likelihood=likelihood)
    if likelihood:
        config = json.loads((made / "config.json").read_text("utf-8"))
        config[LIKELIHOOD_KEY] = LIKELIHOOD_WEIGHT
        (made / "config.json").write_text(json.dumps(config), "utf-8")
    file = sorted(made.glob("*.safetensors"))[-1]
    tensors = load_file(file)
    generator = torch.Generator().manual_seed(0)
    tensors[HEAD] = torch.randn(tensors[HEAD].shape, generator=generator).to(tensors[HEAD].dtype)
    file.unlink()
    save_file(tensors, file, metadata={"format": "pt"})
    return made


class ScoringEngine:
    """A pooling vLLM in a process of its own: as the loop's engine, or bare."""

    def __init__(
        self, settings: EngineSettings, folder: str, images: StoreImages, reuse: bool
    ) -> None:
        self._settings = settings
        self._folder = Path(folder)
        self._images = images
        self._reuse = reuse
        self._scorer: VllmScorer | None = None
        self._llm: Any = None
        self._prompts: list[dict[str, Any]] = []
        self._params: list[Any] = []

    def score(self, requests: Sequence[ScoreRequest]) -> float:
        """Seconds that the loop's engine takes; it starts at the first call."""
        if self._scorer is None:
            self._scorer = VllmScorer(self._settings, self._open, reuse=self._reuse)
            self._scorer.load_policy(self._folder)
        begun = time.perf_counter()
        self._scorer.score(requests)
        return time.perf_counter() - begun

    def _open(self, sha: str) -> Any:
        return decode(self._images(sha))

    def prepare(self, requests: Sequence[ScoreRequest]) -> None:
        """What vLLM is asked, pictures open; the bare engine starts at the first call."""
        if self._llm is None:
            # With vLLM's own cache of processed images, where the loop keeps rendered prompts.
            self._llm = start_pooling(self._folder, self._settings, cache_images=True)
            if read_likelihood(self._folder) is not None:
                from actors.scoring.vllm_likelihood import serve_likelihood

                serve_likelihood(self._llm, self._folder)
        processor = load_processor(self._folder)
        pictures: dict[str, Any] = {}
        asked: dict[str, list[int]] = {}
        self._prompts = []
        self._params = [pooling_params(request.ends_S[-1], reuse=True) for request in requests]
        for request in requests:
            for sha in request.images:
                pictures.setdefault(sha, decode(self._images(sha)))
            if request.prompt not in asked:
                options = processor.options(request.prompt)
                asked[request.prompt] = processor.tokenizer(request.prompt, **options)["input_ids"]
            ids = [*asked[request.prompt], *request.token_ids_T[: request.ends_S[-1]]]
            prompt: dict[str, Any] = {"prompt_token_ids": ids}
            if request.images:
                prompt["multi_modal_data"] = {"image": [pictures[sha] for sha in request.images]}
                prompt["multi_modal_uuids"] = {"image": list(request.images)}
            self._prompts.append(prompt)

    def encode(self) -> float:
        """Seconds of one call of vLLM with all of them."""
        begun = time.perf_counter()
        self._llm.encode(
            self._prompts,
            pooling_params=self._params,
            pooling_task="token_classify",
            use_tqdm=False,
        )
        return time.perf_counter() - begun
