"""The generator pool as the driver's fleet, and what becomes of a shard that kills engines.

    whole ──► answered
      └─(every engine that had it alone died)─► its queries, each alone ──► whole, without those
                                                                            that killed again

A query that kills engines on its own is bad, as one whose image cannot be read is: named with the
reason, left out, counted. Two things are never taken for one: a shard of which only the whole
kills, and a fleet on which nothing else came to an end meanwhile. Both are given up as they are.

What is tried alone is stored under a key of its own, which nobody names; the shard's own object is
made anew, so it holds what it would have held with these queries left out from the start.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from actors.generation.engine_settings import engine_settings
from actors.generation.generator import GeneratorActor, GeneratorSettings
from actors.supervision.node_cache import node_folder
from actors.supervision.pool import Pool, PoolLike, PoolSettings
from pipeline.config.schema import Config
from pipeline.generation.fleet import BadQuery, ShardDone, ShardFailed
from pipeline.generation.shards import ShardSpec
from pipeline.prompts import question_text, warmup_text
from pipeline.query import Query
from pipeline.refs import PolicyRef
from pipeline.storage.store import Store


@dataclass
class _Shard:
    """A shard under way.

    ended: what had come to an end on the fleet when it was handed out. reason: why the engines that
    had all of it died. suspects: queries still to be tried alone; None: it killed nothing yet.
    killers: what killed engines alone, in words by query.
    """

    sent: dict[str, Any]
    ended: int
    reason: str = ""
    suspects: list[str] | None = None
    killers: dict[str, str] = field(default_factory=dict)


class EngineFleet:
    """The generator pool as the driver's fleet."""

    def __init__(self, pool: PoolLike, queries: Mapping[str, Query]) -> None:
        self._pool = pool
        self._queries = queries
        self._shards: dict[str, _Shard] = {}
        self._alone: dict[str, tuple[str, str]] = {}
        """Of work on one query by its id: the shard's key and the query."""
        self._ended = 0

    def submit(self, spec: ShardSpec, policy: PolicyRef) -> None:
        if spec.key in self._shards:
            return
        sent = generate_spec(spec, policy, self._queries)
        self._shards[spec.key] = _Shard(sent, self._ended)
        self._pool.submit(sent)

    def poll(self) -> Sequence[ShardDone | ShardFailed]:
        answers = [self._answer(result) for result in self._pool.poll()]
        return [answer for answer in answers if answer is not None]

    def _answer(self, result: Any) -> ShardDone | ShardFailed | None:
        """What the driver hears of a result; None while its shard is still looked into."""
        key, query = self._alone.pop(result.spec_id, (result.spec_id, None))
        failure = result.failure
        self._ended += failure is None
        if failure is not None and not _killed(result):
            self._shards.pop(key, None)
            return ShardFailed(key, failure.reason, failure.kind, failure.path)
        if query is not None:
            return self._tried(key, query, result)
        if failure is not None:
            return self._look_into(key, result)
        self._shards.pop(key, None)
        return _done(result)

    def _look_into(self, key: str, result: Any) -> ShardFailed | None:
        """A shard cost engine after engine: which of its queries does?"""
        shard = self._shards[key]
        if shard.suspects is not None:
            return self._give_up(key, "also without the queries that do so alone")
        shard.reason = result.failure.reason
        shard.suspects = list(dict.fromkeys(group["query"] for group in shard.sent["groups"]))
        if len(shard.suspects) == 1:
            return self._tried(key, shard.suspects.pop(), result)
        self._try_next(key, shard)
        return None

    def _try_next(self, key: str, shard: _Shard) -> None:
        assert shard.suspects
        query = shard.suspects.pop(0)
        groups = [group for group in shard.sent["groups"] if group["query"] == query]
        name = f"{key}/{query[:16]}"
        self._alone[name] = key, query
        self._pool.submit(shard.sent | {"id": name, "key": f"{key}-alone", "groups": groups})

    def _tried(self, key: str, query: str, result: Any) -> ShardFailed | None:
        """One query has been tried alone; the last one decides."""
        shard = self._shards[key]
        if result.failure is not None:
            shard.killers[query] = f"it killed {result.attempts} engines"
        if shard.suspects:
            self._try_next(key, shard)
            return None
        if not shard.killers:
            return self._give_up(key, "and none of its queries does so alone")
        if self._ended == shard.ended:
            return self._give_up(key, "and nothing else came to an end meanwhile")
        self._pool.submit(shard.sent | {"known_bad": shard.killers})
        return None

    def _give_up(self, key: str, why: str) -> ShardFailed:
        reason = self._shards.pop(key).reason
        return ShardFailed(key, f"it killed every engine that worked on it, {why}: {reason}")


def _killed(result: Any) -> bool:
    """Every engine that had this work alone died; the first one may have had other work, too."""
    return bool(result.killed) and result.killed >= result.attempts - 1


def _done(result: Any) -> ShardDone:
    value = result.value
    return ShardDone(
        key=value["key"],
        rollout=value["rollout"],
        rows=value["rows"],
        tokens=value["tokens"],
        seconds=value["seconds"],
        engine=result.member,
        bad=tuple(BadQuery(**one) for one in value["bad"]),
    )


def generator_pool(config: Config, store: Store, cache: Path, say: Callable[[str], None]) -> Pool:
    """The pool of engines; nothing starts before it is first polled."""
    generate, cluster = config.generate, config.cluster
    engine = engine_settings(config)
    settings = GeneratorSettings(
        engine=engine,
        store_url=store.url,
        cache=node_folder(config, cache, "policies"),
        max_image_pixels=config.data.max_image_pixels,
    )
    return Pool(
        GeneratorActor,
        [settings],
        PoolSettings(
            size=generate.engines,
            cpus=cluster.cpus_per_engine,
            gpus=cluster.gpus_per_engine * generate.tensor_parallel_size,
            # Two shards keep an engine's batch full while one of them drains.
            inflight=1 if config.run.deterministic else 2,
            hang_s=generate.hang_s,
            attempts=generate.attempts,
            environment=engine.environment(),
        ),
        say=say,
    )


def asked_of(spec: ShardSpec, query: Query) -> str:
    """What a shard asks about one of its queries, as rendered text."""
    return question_text(query) if spec.prompt == "question" else warmup_text(query, spec.template)


def generate_spec(
    spec: ShardSpec, policy: PolicyRef, queries: Mapping[str, Query]
) -> dict[str, Any]:
    """A shard as it is sent to a generator (`actors.generation.generator.GenerateSpec`)."""
    groups = []
    for item in spec.queries_Q:
        query = queries[item]
        groups += [
            {
                "query": item,
                "query_id": query.query_id,
                "text": asked_of(spec, query),
                "images": list(query.images),
                "seeds": list(part.seeds),
                "first_index": part.first_index,
                "prefix_token_ids": list(part.prefix),
            }
            for part in spec.parts(item)
        ]
    return {
        "id": spec.key,
        "key": spec.key,
        "policy": policy.version,
        "policy_path": policy.path,
        "temperature": spec.sampling.temperature,
        "top_p": spec.sampling.top_p,
        "max_new_tokens": spec.sampling.max_new_tokens,
        "groups": groups,
    }
