"""What a PRM does with a graded rollout shard, and the Ray actor around it.

What always holds:

* a score belongs to the prompt that the response was sampled from: the PRM's own processor must
  make the very same tokens of it, or the shard is refused;
* every row that was asked for has a score in the object, or is named with the reason why not;
* the object written is a function of the spec alone; while a shard is scored with one PRM, no other
  is loaded;
* while one shard is scored, the next one is read, so an engine does not wait for either.

Axes: Q queries of a shard, S steps of a response.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict

from actors.generation.engine_settings import EngineSettings
from actors.model.images import ImageCache, StoreImages
from actors.model.prm_folder import TagWords, fit_prm
from actors.model.processor import Processor, load_processor
from actors.supervision.beat import Beat
from actors.supervision.node_cache import hold
from actors.supervision.outcomes import ObjectLost, Outcome, outcome_of
from pipeline.datasets.images import Limits
from pipeline.errors import BadModel, CorruptObject, StoreMissing
from pipeline.prm.step_scores import ScoreRequest, StepScorer
from pipeline.prompts import prompt_hash
from pipeline.records import Rollout, Score
from pipeline.responses import MOST_STEPS, StepFinder, merged
from pipeline.selection.rewards import Aggregate, reward_p
from pipeline.stages.score import excluded_counts
from pipeline.storage.artifacts import SCORES, get_verified, put_content
from pipeline.storage.parquet import from_parquet, to_parquet
from pipeline.storage.store import Store, open_store


class Asked(TypedDict):
    """A query of a shard as it was asked: its rendered text, without chat template, and images."""

    text: str
    images: list[str]


class ScoreSpec(TypedDict):
    """One piece of scoring as it is sent to an actor: hashes and text, no bytes.

    prm_path: where its folder lies in the store. rows: query and sample index.
    """

    id: str
    key: str
    prm: str
    prm_path: str
    rollout: str
    queries: dict[str, Asked]
    rows: list[tuple[str, int]]
    aggregate: Aggregate


@dataclass(frozen=True)
class ScorerSettings:
    """What an actor needs to know; can be sent.

    backend: which engine holds the PRM. tag: how a model that answers at a step tag is read; None:
    one with a `score` head. cache: folder on the node's own disk for models.
    """

    engine: EngineSettings
    store_url: str
    cache: str
    backend: Literal["vllm", "transformers"] = "vllm"
    tag: TagWords | None = None
    image_bytes: int = 256 << 20
    max_image_pixels: int = 50_000_000


MakeScorer = Callable[[tuple[int, ...]], StepScorer]


class ShardScorer:
    """Turns specs into score objects, one at a time."""

    def __init__(
        self,
        make: MakeScorer,
        store: Store,
        images: ImageCache,
        cache: Path,
        *,
        tag: TagWords | None = None,
        beat: Beat | None = None,
    ) -> None:
        self._make = make
        self._store = store
        self._images = images
        self._cache = cache
        self._tag = tag
        self._beat = beat or Beat()
        self._scorer: StepScorer | None = None
        self._served: tuple[str, ShardReader] | None = None
        self._lock = threading.Lock()

    def run(self, spec: ScoreSpec) -> dict[str, Any]:
        """Score and store; what it is worth to the driver. Safe to call from several threads: one
        shard is made ready while another one is scored.

        Raises:
            ObjectLost: the PRM, the rollouts or an image is corrupt or gone.
            BadModel: the PRM does not fit the policy, or gives no finite numbers.
        """
        started = time.monotonic()
        rows = self._reader(spec).rows(spec)
        with self._lock:
            self._loaded(spec)  # another one may have come in between
            self._beat(f"scoring {len(rows)} responses of {spec['id']}")
            assert self._scorer is not None
            made = self._scorer.score([request for _, request in rows])
        scores, excluded = [], []
        for (row, request), one in zip(rows, made, strict=True):
            if isinstance(one, str):
                excluded.append(one)
                continue
            reward = reward_p(one, spec["aggregate"])
            scores.append(Score(row.query, row.sample_index, request.ends_S, one, reward))
        path = put_content(self._store, SCORES, spec["key"], to_parquet(scores, Score), "parquet")
        return {
            "scores": path,
            "excluded": excluded_counts(excluded),
            "seconds": time.monotonic() - started,
        }

    def _reader(self, spec: ScoreSpec) -> ShardReader:
        """The reader of the PRM that a spec names: at once where it is served already, while
        another shard is being scored."""
        served = self._served
        if served is not None and served[0] == spec["prm"]:
            return served[1]
        with self._lock:
            return self._loaded(spec)

    def _loaded(self, spec: ScoreSpec) -> ShardReader:
        """The reader of the PRM that a spec names, which is then the one that is served."""
        if self._served is None or self._served[0] != spec["prm"]:
            self._served = None  # whatever fails from here on, no model counts as loaded
            self._served = spec["prm"], self._load(spec["prm"], spec["prm_path"])
        return self._served[1]

    def _load(self, prm: str, path: str) -> ShardReader:
        self._beat(f"fetching {prm}")
        folder = self._cache / path.rsplit("/", 1)[-1]
        try:
            self._store.get_tree(path, folder)
        except (CorruptObject, StoreMissing) as error:
            raise ObjectLost(path, str(error)) from error
        self._beat(f"loading {prm}")
        model = fit_prm(folder, self._cache / f"{folder.name}-headed", self._tag)
        processor = load_processor(model.folder)
        if self._scorer is None:
            self._scorer = self._make(model.tag_ids)
        self._scorer.load_policy(model.folder)
        self._beat()
        return ShardReader(processor, self._store, self._images)


@dataclass(frozen=True)
class Prompt:
    """A query's prompt, as text and as what the tokens that a PRM makes of it hash to."""

    text: str
    images: tuple[str, ...]
    sha256: str


class ShardReader:
    """Turns the rows of rollout shards into requests, with one PRM's processor."""

    def __init__(self, processor: Processor, store: Store, images: ImageCache) -> None:
        self._processor = processor
        self._store = store
        self._images = images
        self._steps = StepFinder(processor.decode)

    def rows(self, spec: ScoreSpec) -> list[tuple[Rollout, ScoreRequest]]:
        """The rows that a spec names, each with what is asked about it.

        Raises:
            ObjectLost: the rollouts or an image is corrupt or gone.
            BadModel: the processor makes other tokens of a prompt.
        """
        try:
            data = get_verified(self._store, spec["rollout"])
        except (CorruptObject, StoreMissing) as error:
            raise ObjectLost(spec["rollout"], str(error)) from error
        wanted = {tuple(place) for place in spec["rows"]}
        rows = [r for r in from_parquet(data, Rollout) if (r.query, r.sample_index) in wanted]
        if len(rows) != len(wanted):
            raise ObjectLost(
                spec["rollout"], f"it holds {len(rows)} of the {len(wanted)} rows to be scored"
            )
        prompts = {
            name: self._prompt(spec["queries"][name])
            for name in dict.fromkeys(r.query for r in rows)
        }
        return [(row, self._request(row, prompts[row.query])) for row in rows]

    def _prompt(self, asked: Asked) -> Prompt:
        images = tuple(asked["images"])
        text = self._processor.prompt(asked["text"], len(images))
        ids = self._processor.input_ids(text, images, self._images.get)
        return Prompt(text, images, prompt_hash(ids))

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


class ScorerActor:
    """A PRM in a Ray actor: the contract of `actors.supervision.pool`."""

    def __init__(self, settings: ScorerSettings) -> None:
        self._settings = settings
        self._beat = Beat()
        self._scorer: ShardScorer | None = None

    def start(self) -> Outcome:
        """Everything that needs no model: the store, and the engine's imports."""
        return outcome_of(self._start)

    def _start(self) -> None:
        settings = self._settings
        store = open_store(settings.store_url)

        fetch = StoreImages(settings.store_url)
        images = ImageCache(
            fetch,
            budget=settings.image_bytes,
            limits=Limits(max_pixels=settings.max_image_pixels),
        )
        self._scorer = ShardScorer(
            lambda tag_ids: self._engine(tag_ids, images, fetch),
            store,
            images,
            hold(Path(settings.cache)),
            tag=settings.tag,
            beat=self._beat,
        )

    def _engine(
        self, tag_ids: tuple[int, ...], images: ImageCache, fetch: Callable[[str], bytes]
    ) -> StepScorer:
        engine = self._settings.engine
        if self._settings.backend == "transformers":
            import torch

            from actors.scoring.transformers_scorer import TransformersScorer

            return TransformersScorer(
                fetch,
                max_model_len=engine.max_model_len,
                precision=engine.precision,
                tag_ids=tag_ids,
                device="cuda" if torch.cuda.is_available() else "cpu",
                beat=self._beat,
            )
        from actors.scoring.vllm_scorer import VllmScorer

        return VllmScorer(engine, images.get, self._beat, tag_ids=tag_ids)

    def run(self, spec: ScoreSpec) -> Outcome:
        """One shard. An engine that breaks raises, and the pool replaces this actor."""
        if self._scorer is None:
            raise RuntimeError("run before start")
        return outcome_of(self._scorer.run, spec)

    def progress(self) -> tuple[int, str]:
        """How far the work has moved, and what it is at."""
        return self._beat.count, self._beat.what
