"""What a PRM does with a graded rollout shard, and the Ray actor around it.

What always holds:

* a score belongs to the prompt that the response was sampled from: the PRM's own processor must
  make the very same tokens of it, or the shard is refused;
* every row that needs a score has one in the stored object, or is counted with the reason why not
  (`pipeline.stages.score.score_shard`, which also selects by the scores);
* what is stored is a function of the task alone; while a shard is scored with one PRM, no other is
  loaded;
* while one shard is scored, the next one is read, so an engine does not wait for either.

Axes: Q queries of a shard, S steps of a response.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial

from actors.generation.engine_settings import EngineSettings
from actors.model.images import ImageCache, StoreImages
from actors.model.prm_folder import TagWords, fit_prm
from actors.model.processor import Processor, load_processor
from actors.supervision.heartbeat import Heartbeat
from actors.supervision.node_cache import (
    take_code_folder,
    take_temporary_folder,
    tree_cache,
)
from actors.supervision.pool_actor import PoolActor
from actors.supervision.store_access import reach_store
from pipeline.config.schema import Config
from pipeline.datasets.images import Limits
from pipeline.errors import BadModel
from pipeline.generation.shards import EngineIdentity
from pipeline.hashing import canonical_json, sha256_hex
from pipeline.prm.step_scores import ScoreRequest, StepScorer
from pipeline.prompts import PromptTemplates, prompt_hash
from pipeline.query import Query
from pipeline.records import Rollout, Score
from pipeline.refs import PolicyRef
from pipeline.responses import MOST_STEPS, StepFinder, merged
from pipeline.run.shard_answers import ScoreDone
from pipeline.selection.rewards import reward_p
from pipeline.stages.score import ScoreTask, score_shard, scored_how
from pipeline.storage.artifacts import needed
from pipeline.storage.store import Store
from pipeline.storage.tree_cache import TreeCache

MakeScorer = Callable[[tuple[int, ...]], StepScorer]


def tag_words(config: Config) -> TagWords | None:
    """How the configured PRM is read, where it answers at a step tag."""
    prm = config.prm
    return TagWords(prm.tag, prm.good, prm.bad) if prm.kind == "tag" else None


class ShardScorer:
    """Scores shards, one at a time, as `config.prm` says; `engine` is part of the scores' key."""

    def __init__(
        self,
        make: MakeScorer,
        store: Store,
        images: ImageCache,
        cache: TreeCache,
        *,
        config: Config,
        engine: EngineIdentity,
        beat: Heartbeat | None = None,
    ) -> None:
        self._make = make
        self._store = store
        self._images = images
        self._cache = cache
        self._config = config
        self._engine = engine
        self._beat = beat or Heartbeat()
        self._scorer: StepScorer | None = None
        self._served: tuple[str, ShardReader] | None = None
        self._reading = ExitStack()  # the served model's folders, which nobody removes meanwhile
        self._lock = threading.Lock()

    def run(self, task: ScoreTask) -> ScoreDone:
        """Score, select and store. Safe to call from several threads: one shard is made ready while
        another one is scored.

        Raises:
            ArtifactLost: the PRM, the rollouts, the grades or an image is corrupt or gone.
            BadModel: the PRM does not fit the policy, or gives no finite numbers.
        """
        return score_shard(
            self._store,
            task,
            partial(self._scores, task),
            engine=self._engine,
            kind=scored_how(self._config),
        )

    def serve(self, prm: PolicyRef) -> str:
        """Load a PRM, if it is not loaded; the version that is served then."""
        self._reader(prm)
        return prm.version if self._served is None else self._served[0]

    def _scores(self, task: ScoreTask, rows: Sequence[Rollout]) -> list[Score | str]:
        """The scores of some rows of a task, or why they have none."""
        prm = task.scoring.prm
        requests = self._reader(prm).requests(rows, task.queries_Q)
        with self._lock:
            self._loaded(prm)  # another one may have come in between
            self._beat(f"scoring {len(rows)} responses of {task.key}")
            assert self._scorer is not None
            answers = self._scorer.score(requests)
        return [
            answer
            if isinstance(answer, str)
            else Score(
                row.query,
                row.sample_index,
                request.ends_S,
                answer,
                reward_p(answer, task.scoring.aggregate),
            )
            for row, request, answer in zip(rows, requests, answers, strict=True)
        ]

    def _reader(self, prm: PolicyRef) -> ShardReader:
        """The reader of a PRM: at once where it is served already, while another shard is being
        scored."""
        served = self._served
        if served is not None and served[0] == prm.version:
            return served[1]
        with self._lock:
            return self._loaded(prm)

    def _loaded(self, prm: PolicyRef) -> ShardReader:
        """The reader of a PRM, which is then the one that is served."""
        if self._served is None or self._served[0] != prm.version:
            self._served = None  # whatever fails from here on, no model counts as loaded
            self._served = prm.version, self._load(prm.version, prm.path)
        return self._served[1]

    def _load(self, prm: str, path: str) -> ShardReader:
        self._beat(f"fetching {prm}")
        self._reading.close()
        with needed(path):
            tree = self._cache.tree(self._store, path, self._beat)
            folder = self._reading.enter_context(tree)
        self._beat(f"loading {prm}")
        words, headed = tag_words(self._config), folder
        trusted = self._config.policy.trust_remote_code
        if words is not None:
            name = f"headed-{sha256_hex(canonical_json(asdict(words)))[:16]}"
            made = self._cache.derived(
                path, name, lambda part: fit_prm(folder, part, words, trusted=trusted)
            )
            headed = self._reading.enter_context(made)
        model = fit_prm(folder, headed, words, trusted=trusted)
        processor = load_processor(model.folder, trusted=trusted)
        if self._scorer is None:
            self._scorer = self._make(model.tag_ids)
        self._scorer.load_policy(model.folder)
        self._beat()
        return ShardReader(processor, self._images, self._config.prompt.templates)


@dataclass(frozen=True)
class Prompt:
    """A query's prompt, as text and as what the tokens that a PRM makes of it hash to."""

    text: str
    images: tuple[str, ...]
    sha256: str


class ShardReader:
    """Turns rows of rollout shards into requests, with one PRM's processor."""

    def __init__(
        self, processor: Processor, images: ImageCache, templates: PromptTemplates
    ) -> None:
        self._processor = processor
        self._templates = templates
        self._images = images
        self._steps = StepFinder(processor.decode)

    def requests(self, rows: Sequence[Rollout], queries: Sequence[Query]) -> list[ScoreRequest]:
        """What is asked about each row. queries: at least those of the rows.

        Raises:
            ArtifactLost: an image is corrupt or gone.
            BadModel: the processor makes other tokens of a prompt.
        """
        names = {row.query for row in rows}
        prompts = {q.content_hash: self._prompt(q) for q in queries if q.content_hash in names}
        return [self._request(row, prompts[row.query]) for row in rows]

    def _prompt(self, query: Query) -> Prompt:
        asked = self._templates.text(query)
        text = self._processor.prompt(asked, len(query.images), self._templates.system)
        ids = self._processor.input_ids(text, query.images, self._images.get)
        return Prompt(text, query.images, prompt_hash(ids))

    def _request(self, row: Rollout, prompt: Prompt) -> ScoreRequest:
        if prompt.sha256 != row.prompt_sha256:
            raise BadModel(
                f"query {row.query_id}: the process reward model's processor makes other tokens of "
                "its prompt than the policy's; it needs the policy's tokenizer, image processor "
                "and chat template (prm.path)"
            )
        ends = merged(self._steps.ends(row.token_ids, row.text), MOST_STEPS)
        name = f"response {row.sample_index} to query {row.query_id}"
        return ScoreRequest(prompt.text, prompt.images, row.token_ids, ends, name)


class ScorerActor(PoolActor):
    """A PRM in a Ray actor. It begins with the PRM that a task names, and answers its version.

    engine, identity: how the engine is built, from the driver, and that as part of the scores'
    key.
    """

    def __init__(
        self,
        config: Config,
        engine: EngineSettings,
        identity: EngineIdentity,
        store: Store,
        cache: str | None,
    ) -> None:
        super().__init__(store, cache)
        self._config = config
        self._identity = identity
        self._engine = engine

    def _start(self, work: ScoreTask) -> None:
        take_code_folder(self._cache, self._engine.trust_remote_code)
        store = reach_store(self._store, "a scorer")
        fetch = StoreImages(store)
        limits = Limits(max_pixels=self._config.data.max_image_pixels)
        images = ImageCache(fetch, limits=limits)
        self._worker = ShardScorer(
            lambda tag_ids: self._step_scorer(tag_ids, images, fetch),
            store,
            images,
            tree_cache(self._cache),
            config=self._config,
            engine=self._identity,
            beat=self._beat,
        )
        take_temporary_folder()  # vLLM asks where its files go; the cache above is the node's
        self._worker.serve(work.scoring.prm)

    def _step_scorer(
        self, tag_ids: tuple[int, ...], images: ImageCache, fetch: Callable[[str], bytes]
    ) -> StepScorer:
        engine = self._engine
        if self._config.prm.engine == "transformers":
            import torch

            from actors.scoring.transformers_scorer import TransformersScorer

            return TransformersScorer(
                fetch,
                max_model_len=engine.max_model_len,
                precision=engine.precision,
                tag_ids=tag_ids,
                device="cuda" if torch.cuda.is_available() else "cpu",
                trusted=engine.trust_remote_code,
                beat=self._beat,
            )
        from actors.scoring.vllm_scorer import VllmScorer

        return VllmScorer(engine, images.get, self._beat, tag_ids=tag_ids)
