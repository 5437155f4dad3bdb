"""What an engine does with a rollout shard, and the Ray actor around it.

What always holds:

* every row's prompt ids are those of the policy's own processor: the engine's are compared with
  them, and a shard in which they differ is not written;
* all samples of a query are made by one engine from one request each, and lie in one shard;
* a query that cannot be asked on any machine (an image that cannot be read, a prompt longer than
  the context) is named with its reason and has no rows, never an empty answer;
* the object written is a function of the spec alone: no time, host or attempt is in it;
* while shards of one policy are running, no other policy is loaded.

Axes: Q queries of a shard, K samples of a query, B requests, T tokens of a response.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from actors.generation.engine_settings import EngineSettings
from actors.model.images import ImageCache, StoreImages
from actors.model.processor import Processor, load_processor, processor_sha256
from actors.supervision.beat import Beat
from actors.supervision.node_cache import hold
from actors.supervision.outcomes import ObjectLost, Outcome, outcome_of
from pipeline.datasets.images import Limits
from pipeline.errors import BadData, BadModel, CorruptObject, StoreMissing
from pipeline.generation.engine import Engine, Sample, SampleRequest
from pipeline.prompts import prompt_hash
from pipeline.records import Rollout
from pipeline.storage.artifacts import put_content
from pipeline.storage.parquet import to_parquet
from pipeline.storage.store import Store, open_store

STAGE = "rollout"

# Policies kept on a node's disk beside the one in use: an engine may still be reading the last one.
POLICIES_KEPT = 4


class Group(TypedDict):
    """One query of a shard: what is asked, and a seed for each sample.

    query: content hash. text: the question as rendered, without chat template. first_index:
    sample index of the first seed. prefix_token_ids: sampled ids that every response starts with.
    """

    query: str
    query_id: str
    text: str
    images: list[str]
    seeds: list[int]
    first_index: int
    prefix_token_ids: list[int]


class GenerateSpec(TypedDict):
    """One shard as it is sent to an actor: hashes and text, no bytes.

    id: names the piece of work. key: the shard's key in the store. policy: its version;
    policy_path: where its folder lies in the store. known_bad: queries that are not asked, and why.
    """

    id: str
    key: str
    policy: str
    policy_path: str
    temperature: float
    top_p: float
    max_new_tokens: int
    groups: list[Group]
    known_bad: NotRequired[dict[str, str]]


@dataclass(frozen=True)
class GeneratorSettings:
    """What an actor needs to know; can be sent.

    cache: folder on the node's own disk for policies. image_bytes: budget of decoded images.
    """

    engine: EngineSettings
    store_url: str
    cache: str
    image_bytes: int = 256 << 20
    max_image_pixels: int = 50_000_000


class Generator:
    """Turns specs into rollout objects. `run` may be called from several threads at once."""

    def __init__(
        self,
        engine: Engine,
        store: Store,
        images: ImageCache,
        cache: Path,
        *,
        max_model_len: int,
        beat: Beat | None = None,
        processors: Callable[[Path], Processor] = load_processor,
    ) -> None:
        self.engine = engine
        self._store = store
        self._images = images
        self._cache = cache
        self._max_model_len = max_model_len
        self._beat = beat or Beat()
        self._load_processor = processors
        self._processor: Processor | None = None
        self._processor_sha256 = ""
        self._policy = ""
        self._users = 0
        self._turn = threading.Condition()

    def run(self, spec: GenerateSpec) -> dict[str, Any]:
        """Generate and store one shard; what it is worth to the driver.

        Raises:
            BadModel: when engine and processor disagree about a prompt's tokens, or the policy
                cannot be used.
        """
        started = time.monotonic()
        with self._holding(spec) as processor:
            asked, bad = self._ask(spec, processor)
            requests_B = [request for _, requests_K in asked for request in requests_K]
            self._beat(f"{len(requests_B)} samples of {spec['id']}")
            samples_B = iter(self.engine.generate(requests_B))
            rows: list[Rollout] = []
            for group, requests_K in asked:
                samples_K = [next(samples_B) for _ in requests_K]
                self._check_tokens(group, requests_K, samples_K, processor)
                rows += _rows(spec, group, requests_K, samples_K)
        self._beat(f"writing {spec['id']}")
        path = put_content(self._store, STAGE, spec["key"], to_parquet(rows, Rollout), "parquet")
        return {
            "key": spec["key"],
            "rollout": path,
            "rows": len(rows),
            "tokens": sum(len(row.token_ids) for row in rows),
            "seconds": time.monotonic() - started,
            "bad": bad,
        }

    @contextmanager
    def _holding(self, spec: GenerateSpec) -> Iterator[Processor]:
        """The policy of `spec` is loaded, and stays so until this shard's samples are there."""
        with self._turn:
            self._turn.wait_for(lambda: self._policy == spec["policy"] or self._users == 0)
            if self._policy != spec["policy"]:
                self._load(spec["policy"], spec["policy_path"])
            self._users += 1
        if self._processor is None:
            raise RuntimeError("a policy is loaded without its processor")
        try:
            yield self._processor
        finally:
            with self._turn:
                self._users -= 1
                self._turn.notify_all()

    def _load(self, policy: str, path: str) -> None:
        self._beat(f"fetching {policy}")
        self._policy = ""  # whatever fails from here on, no policy counts as loaded
        folder = self._cache / path.rsplit("/", 1)[-1]
        try:
            self._store.get_tree(path, folder)
        except (CorruptObject, StoreMissing) as error:
            raise ObjectLost(path, str(error)) from error
        folder.touch()
        self._beat(f"loading {policy}")
        sha256 = processor_sha256(folder)
        if self._processor is None or sha256 != self._processor_sha256:
            self._processor = self._load_processor(folder)
            self._processor_sha256 = sha256
        # With equal files the one that is here is kept, and the prompts that it has made.
        self.engine.load_policy(folder)
        self._policy = policy
        _forget_policies(self._cache, keep=POLICIES_KEPT)
        self._beat()

    def _ask(
        self, spec: GenerateSpec, processor: Processor
    ) -> tuple[list[tuple[Group, list[SampleRequest]]], list[dict[str, str]]]:
        """The requests of each query that can be asked, and the reasons of those that cannot."""
        known = spec.get("known_bad", {})
        asked, bad = [], [{"query": query, "reason": reason} for query, reason in known.items()]
        for group in spec["groups"]:
            if group["query"] in known:
                continue
            try:
                asked.append((group, self._requests(spec, group, processor)))
            except BadData as error:
                bad.append({"query": group["query"], "reason": str(error)})
            self._beat(f"preparing {spec['id']}")
        return asked, bad

    def _requests(
        self, spec: GenerateSpec, group: Group, processor: Processor
    ) -> list[SampleRequest]:
        images = tuple(group["images"])
        prompt = processor.prompt(group["text"], len(images))
        prompt_P = processor.input_ids(prompt, images, self._images.get)
        prefix = tuple(group["prefix_token_ids"])
        if len(prompt_P) + len(prefix) >= self._max_model_len:
            raise BadData(
                f"its prompt has {len(prompt_P)} tokens and its prefix {len(prefix)}, which leaves "
                f"no room for a response in {self._max_model_len} (generate.max_model_len)"
            )
        return [
            SampleRequest(
                prompt=prompt,
                images=images,
                seed=seed,
                temperature=spec["temperature"],
                top_p=spec["top_p"],
                max_new_tokens=spec["max_new_tokens"],
                prefix_token_ids=prefix,
            )
            for seed in group["seeds"]
        ]

    def _check_tokens(
        self,
        group: Group,
        requests_K: Sequence[SampleRequest],
        samples_K: Sequence[Sample],
        processor: Processor,
    ) -> None:
        """One source of tokens (design, section 5): the engine saw what the processor says."""
        request = requests_K[0]
        wanted = processor.input_ids(request.prompt, request.images, self._images.get)
        for sample in samples_K:
            if sample.prompt_token_ids_P != wanted:
                raise BadModel(
                    f"query {group['query_id']}: the engine was fed {sample.prompt_token_ids_P}, "
                    f"the policy's processor makes {wanted}; responses to one prompt must not be "
                    "trained on under another"
                )
            if processor.forbidden_in(sample.token_ids_T):
                raise BadModel(f"query {group['query_id']}: a response holds a forbidden token")


def _rows(
    spec: GenerateSpec,
    group: Group,
    requests_K: Sequence[SampleRequest],
    samples_K: Sequence[Sample],
) -> Iterator[Rollout]:
    hashed = prompt_hash(samples_K[0].prompt_token_ids_P)
    for offset, (request, sample) in enumerate(zip(requests_K, samples_K, strict=True)):
        yield Rollout(
            query=group["query"],
            query_id=group["query_id"],
            sample_index=group["first_index"] + offset,
            seed=request.seed,
            policy=spec["policy"],
            temperature=request.temperature,
            top_p=request.top_p,
            prompt_sha256=hashed,
            prompt_tokens=len(sample.prompt_token_ids_P),
            token_ids=sample.token_ids_T,
            logprobs=sample.logprobs_T,
            text=sample.text,
            finish=sample.finish,
        )


def _forget_policies(cache: Path, keep: int) -> None:
    folders = [one for one in cache.iterdir() if one.is_dir() and not one.name.startswith(".")]
    folders.sort(key=lambda one: one.stat().st_mtime, reverse=True)
    for folder in folders[keep:]:
        shutil.rmtree(folder, ignore_errors=True)


class GeneratorActor:
    """A generator in a Ray actor: the contract of `actors.supervision.pool`."""

    def __init__(self, settings: GeneratorSettings) -> None:
        self._settings = settings
        self._beat = Beat()
        self._generator: Generator | None = None

    def start(self) -> Outcome:
        """Everything that needs no policy: the store, and the engine's imports."""
        return outcome_of(self._start)

    def _start(self) -> None:
        import vllm  # noqa: F401  half of an engine's start; the policy is not needed for it

        from actors.generation.vllm_engine import VllmEngine

        settings = self._settings
        store = open_store(settings.store_url)

        images = ImageCache(
            StoreImages(settings.store_url),
            budget=settings.image_bytes,
            limits=Limits(max_pixels=settings.max_image_pixels),
        )
        self._generator = Generator(
            VllmEngine(settings.engine, images.get, self._beat),
            store,
            images,
            hold(Path(settings.cache)),
            max_model_len=settings.engine.max_model_len,
            beat=self._beat,
        )

    def run(self, spec: GenerateSpec) -> Outcome:
        """One shard. An engine that breaks raises, and the pool replaces this actor."""
        if self._generator is None:
            raise RuntimeError("run before start")
        return outcome_of(self._generator.run, spec)

    def progress(self) -> tuple[int, str]:
        """How far the work has moved, and what it is at."""
        return self._beat.count, self._beat.what
