"""What an engine does with a rollout shard, and the Ray actor around it.

What always holds:

* every row's prompt ids are those of the policy's own processor: the engine's are compared with
  them, and a shard in which they differ is not written;
* all samples of a query are made by one engine from one request each, and lie in one shard;
* a query that cannot be asked on any machine (an image that cannot be read, a prompt longer than
  the context) is named with its reason and has no rows, never an empty answer;
* the object written is a function of the work alone: no time, host or attempt is in it;
* while shards of one policy are running, no other policy is loaded.

Axes: Q queries of a shard, K samples of a query, B requests, T tokens of a response.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from actors.generation.engine_settings import EngineSettings
from actors.model.images import ImageCache, StoreImages
from actors.model.processor import Processor, load_processor, processor_sha256
from actors.supervision.heartbeat import Heartbeat
from actors.supervision.node_cache import (
    take_code_folder,
    take_temporary_folder,
    tree_cache,
)
from actors.supervision.pool_actor import PoolActor
from actors.supervision.store_access import reach_store
from pipeline.config.schema import Data
from pipeline.datasets.images import Limits
from pipeline.errors import BadData, BadModel
from pipeline.generation.engine import Engine, Sample, SampleRequest
from pipeline.generation.fleet import BadQuery, ShardDone
from pipeline.generation.shards import SamplePart, ShardSpec
from pipeline.prompts import prompt_hash
from pipeline.query import Query
from pipeline.records import Rollout
from pipeline.refs import PolicyRef
from pipeline.storage.artifacts import ROLLOUTS, needed, put_content
from pipeline.storage.parquet import to_parquet
from pipeline.storage.store import Store
from pipeline.storage.tree_cache import TreeCache


@dataclass(frozen=True)
class ShardWork:
    """A rollout shard as it is sent to an engine.

    queries_Q: the spec's, or the one that is tried `alone`. known_bad: queries that are not asked,
    and why.
    """

    spec: ShardSpec
    policy: PolicyRef
    queries_Q: tuple[Query, ...]
    alone: bool = False
    known_bad: tuple[BadQuery, ...] = ()

    @property
    def key(self) -> str:
        """Names this piece of work."""
        name = self.spec.key
        return f"{name}/{self.queries_Q[0].content_hash[:16]}" if self.alone else name

    @property
    def stored_as(self) -> str:
        """The key in the store; of a query that is tried alone one that nobody else names."""
        return f"{self.spec.key}-alone" if self.alone else self.spec.key


@dataclass(frozen=True)
class Group:
    """Samples of one query that start from the same ids, and the requests for them."""

    query: Query
    first_index: int
    requests_K: tuple[SampleRequest, ...]


class Generator:
    """Turns shards into rollout objects. `run` may be called from several threads at once."""

    def __init__(
        self,
        engine: Engine,
        store: Store,
        images: ImageCache,
        cache: TreeCache,
        *,
        max_model_len: int,
        beat: Heartbeat | None = None,
        processors: Callable[[Path], Processor] = load_processor,
    ) -> None:
        self.engine = engine
        self._store = store
        self._images = images
        self._cache = cache
        self._max_model_len = max_model_len
        self._beat = beat or Heartbeat()
        self._load_processor = processors
        self._processor: Processor | None = None
        self._processor_sha256 = ""
        self._policy = ""
        self._reading = ExitStack()  # the loaded policy's folder, which nobody removes meanwhile
        self._users = 0
        self._turn = threading.Condition()

    def run(self, work: ShardWork) -> ShardDone:
        """Generate and store one shard.

        Raises:
            BadModel: when engine and processor disagree about a prompt's tokens, or the policy
                cannot be used.
        """
        started = time.monotonic()
        with self._holding(work.policy) as processor:
            groups, bad = self._groups(work, processor)
            requests_B = [request for group in groups for request in group.requests_K]
            self._beat(f"{len(requests_B)} samples of {work.key}")
            samples_B = iter(self.engine.generate(requests_B))
            rows: list[Rollout] = []
            for group in groups:
                samples_K = [next(samples_B) for _ in group.requests_K]
                self._check_tokens(group, samples_K, processor)
                rows += _rows(work.policy, group, samples_K)
        self._beat(f"writing {work.key}")
        data = to_parquet(rows, Rollout)
        return ShardDone(
            key=work.spec.key,
            rollout=put_content(self._store, ROLLOUTS, work.stored_as, data, "parquet"),
            rows=len(rows),
            tokens=sum(len(row.token_ids) for row in rows),
            seconds=time.monotonic() - started,
            bad=bad,
        )

    def serve(self, policy: PolicyRef) -> None:
        """Load a policy, if it is not loaded.

        Raises:
            BadModel: it cannot be used.
            ArtifactLost: it is corrupt or gone.
        """
        with self._holding(policy):
            pass

    @contextmanager
    def _holding(self, policy: PolicyRef) -> Iterator[Processor]:
        """The policy is loaded, and stays so until this shard's samples are there."""
        with self._turn:
            self._turn.wait_for(lambda: self._policy == policy.version or self._users == 0)
            if self._policy != policy.version:
                self._load(policy.version, policy.path)
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
        self._reading.close()
        with needed(path):
            tree = self._cache.tree(self._store, path, self._beat)
            folder = self._reading.enter_context(tree)
        self._beat(f"loading {policy}")
        sha256 = processor_sha256(folder)
        if self._processor is None or sha256 != self._processor_sha256:
            self._processor = self._load_processor(folder)
            self._processor_sha256 = sha256
        # With equal files the one that is here is kept, and the prompts that it has made.
        self.engine.load_policy(folder)
        self._policy = policy
        self._beat()

    def _groups(
        self, work: ShardWork, processor: Processor
    ) -> tuple[list[Group], tuple[BadQuery, ...]]:
        """The requests of each query that can be asked, and the reasons of those that cannot."""
        bad = {each.query: each.reason for each in work.known_bad}
        groups = []
        for query in work.queries_Q:
            for part in () if query.content_hash in bad else work.spec.parts(query.content_hash):
                try:
                    groups.append(self._group(work.spec, query, part, processor))
                except BadData as error:
                    bad[query.content_hash] = str(error)
                self._beat(f"preparing {work.key}")
        groups = [group for group in groups if group.query.content_hash not in bad]
        return groups, tuple(BadQuery(query, reason) for query, reason in bad.items())

    def _group(
        self, spec: ShardSpec, query: Query, part: SamplePart, processor: Processor
    ) -> Group:
        prompt = prompt_of(spec, query, processor)
        prompt_P = processor.input_ids(prompt, query.images, self._images.get)
        if len(prompt_P) + len(part.prefix) >= self._max_model_len:
            raise BadData(
                f"its prompt has {len(prompt_P)} tokens and its prefix {len(part.prefix)}, which "
                f"leaves no room for a response in {self._max_model_len} (generate.max_model_len)"
            )
        requests_K = tuple(
            SampleRequest(
                prompt=prompt,
                images=query.images,
                seed=seed,
                temperature=spec.sampling.temperature,
                top_p=spec.sampling.top_p,
                max_new_tokens=spec.sampling.max_new_tokens,
                prefix_token_ids=part.prefix,
            )
            for seed in part.seeds
        )
        return Group(query, part.first_index, requests_K)

    def _check_tokens(
        self, group: Group, samples_K: Sequence[Sample], processor: Processor
    ) -> None:
        """One source of tokens (design, section 5): the engine saw what the processor says."""
        request, name = group.requests_K[0], group.query.query_id
        wanted = processor.input_ids(request.prompt, request.images, self._images.get)
        for sample in samples_K:
            if sample.prompt_token_ids_P != wanted:
                raise BadModel(
                    f"query {name}: the engine was fed {sample.prompt_token_ids_P}, the policy's "
                    f"processor makes {wanted}; responses to one prompt must not be trained on "
                    "under another"
                )
            if processor.forbidden_in(sample.token_ids_T):
                raise BadModel(f"query {name}: a response holds a forbidden token")


def prompt_of(spec: ShardSpec, query: Query, processor: Processor) -> str:
    """What a shard asks about one of its queries, rendered by the model's own template."""
    text = spec.templates.text(query, spec.prompt)
    return processor.prompt(text, len(query.images), spec.templates.system)


def _rows(policy: PolicyRef, group: Group, samples_K: Sequence[Sample]) -> Iterator[Rollout]:
    hashed = prompt_hash(samples_K[0].prompt_token_ids_P)
    for offset, (request, sample) in enumerate(zip(group.requests_K, samples_K, strict=True)):
        yield Rollout(
            query=group.query.content_hash,
            query_id=group.query.query_id,
            sample_index=group.first_index + offset,
            seed=request.seed,
            policy=policy.version,
            temperature=request.temperature,
            top_p=request.top_p,
            prompt_sha256=hashed,
            prompt_tokens=len(sample.prompt_token_ids_P),
            token_ids=sample.token_ids_T,
            logprobs=sample.logprobs_T,
            text=sample.text,
            finish=sample.finish,
        )


class GeneratorActor(PoolActor):
    """A generator in a Ray actor. It begins with the policy that a shard names.

    engine: from the driver, who has the base policy's folder.
    """

    def __init__(self, data: Data, engine: EngineSettings, store: Store, cache: str | None) -> None:
        super().__init__(store, cache)
        self._limits = Limits(max_pixels=data.max_image_pixels)
        self._engine = engine

    def _start(self, work: ShardWork) -> str:
        take_code_folder(self._cache, self._engine.trust_remote_code)
        from actors.generation.vllm_engine import VllmEngine

        store = reach_store(self._store, "an engine")
        images = ImageCache(StoreImages(store), limits=self._limits)
        engine = VllmEngine(self._engine, images.get, self._beat)
        self._worker = Generator(
            engine,
            store,
            images,
            tree_cache(self._cache),
            max_model_len=self._engine.max_model_len,
            beat=self._beat,
            processors=partial(load_processor, trusted=self._engine.trust_remote_code),
        )
        take_temporary_folder()  # vLLM asks where its files go; the cache above is the node's
        self._worker.serve(work.policy)
        return engine.runs_as
