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
from dataclasses import dataclass, field, replace

from actors.generation.engine_settings import engine_settings
from actors.generation.generator import GeneratorActor, ShardWork
from actors.supervision.node_cache import cache_place
from actors.supervision.pool import Pool, PoolLike, PoolSettings, Result
from pipeline.config.schema import Config
from pipeline.generation.fleet import BadQuery, ShardDone, ShardFailed
from pipeline.generation.shards import ShardSpec
from pipeline.query import Query
from pipeline.refs import PolicyRef
from pipeline.storage.store import Store


@dataclass
class _Shard:
    """A shard under way.

    ended: what had come to an end on the fleet when it was handed out. reason: why the engines that
    had all of it died. suspects: queries still to be tried alone; None: it killed nothing yet.
    killers: the queries that killed engines alone.
    """

    work: ShardWork
    ended: int
    reason: str = ""
    suspects: list[Query] | None = None
    killers: list[BadQuery] = field(default_factory=list)


class EngineFleet:
    """The generator pool as the driver's fleet."""

    def __init__(self, pool: PoolLike, queries: Mapping[str, Query]) -> None:
        self._pool = pool
        self._queries = queries
        self._shards: dict[str, _Shard] = {}
        self._alone: dict[str, ShardWork] = {}
        """Work on one query, by its key."""
        self._ended = 0

    def submit(self, spec: ShardSpec, policy: PolicyRef) -> None:
        if spec.key in self._shards:
            return
        queries_Q = tuple(self._queries[item] for item in spec.queries_Q)
        work = ShardWork(spec, policy, queries_Q)
        self._shards[spec.key] = _Shard(work, self._ended)
        self._pool.submit(work)

    def poll(self) -> Sequence[ShardDone | ShardFailed]:
        answers = [self._answer(result) for result in self._pool.poll()]
        return [answer for answer in answers if answer is not None]

    def _answer(self, result: Result) -> ShardDone | ShardFailed | None:
        """What the driver hears of a result; None while its shard is still looked into."""
        alone = self._alone.pop(result.key, None)
        key = result.key if alone is None else alone.spec.key
        failure = result.failure
        self._ended += failure is None
        if failure is not None and not _killed(result):
            self._shards.pop(key, None)
            return ShardFailed(key, failure.reason, failure.kind, failure.path)
        if alone is not None:
            return self._tried(key, alone.queries_Q[0], result)
        if failure is not None:
            return self._look_into(key, result)
        self._shards.pop(key, None)
        done: ShardDone = replace(result.value, engine=result.member)
        return done

    def _look_into(self, key: str, result: Result) -> ShardFailed | None:
        """A shard cost engine after engine: which of its queries does?"""
        shard = self._shards[key]
        if shard.suspects is not None:
            return self._give_up(key, "also without the queries that do so alone")
        assert result.failure is not None
        shard.reason = result.failure.reason
        shard.suspects = list(shard.work.queries_Q)
        if len(shard.suspects) == 1:
            return self._tried(key, shard.suspects.pop(), result)
        self._try_next(shard)
        return None

    def _try_next(self, shard: _Shard) -> None:
        assert shard.suspects
        work = replace(shard.work, queries_Q=(shard.suspects.pop(0),), alone=True)
        self._alone[work.key] = work
        self._pool.submit(work)

    def _tried(self, key: str, query: Query, result: Result) -> ShardFailed | None:
        """One query has been tried alone; the last one decides."""
        shard = self._shards[key]
        if result.failure is not None:
            reason = f"it killed {result.attempts} engines"
            shard.killers.append(BadQuery(query.content_hash, reason))
        if shard.suspects:
            self._try_next(shard)
            return None
        if not shard.killers:
            return self._give_up(key, "and none of its queries does so alone")
        if self._ended == shard.ended:
            return self._give_up(key, "and nothing else came to an end meanwhile")
        self._pool.submit(replace(shard.work, known_bad=tuple(shard.killers)))
        return None

    def _give_up(self, key: str, why: str) -> ShardFailed:
        reason = self._shards.pop(key).reason
        return ShardFailed(key, f"it killed every engine that worked on it, {why}: {reason}")


def _killed(result: Result) -> bool:
    """Every engine that had this work alone died; the first one may have had other work, too."""
    return bool(result.killed) and result.killed >= result.attempts - 1


def pool_settings(config: Config, *, most: int, least: int | None, inflight: int) -> PoolSettings:
    """A pool of engines of this run, whatever they do: `most` at most, `least` without work (None:
    all of them on a private Ray, which nobody else waits for, and none on a cluster)."""
    cluster, generate = config.cluster, config.generate
    return replace(
        PoolSettings.patient(cluster),
        size=most,
        least=(most if cluster.address is None else 0) if least is None else least,
        idle_s=cluster.idle_s,
        cpus=cluster.cpus_per_engine,
        gpus=cluster.gpus_per_engine * generate.tensor_parallel_size,
        other=cluster.engine_resource,
        inflight=inflight,
        start_s=generate.start_s,
        hang_s=generate.hang_s,
        attempts=generate.attempts,
        environment=engine_settings(config).environment(),
    )


def generator_pool(config: Config, store: Store, say: Callable[[str], None]) -> Pool:
    """The pool of engines; nothing starts before there is work."""
    engine = engine_settings(config)
    return Pool(
        GeneratorActor,
        [config.data, engine, store, cache_place(config)],
        pool_settings(
            config,
            most=config.generate.engines,
            least=config.cluster.min_engines,
            # Two shards keep an engine's batch full while one of them drains.
            inflight=1 if config.run.deterministic else 2,
        ),
        say=say,
    )
