"""What a run is: its configuration, the queries it uses, and what samples and grades them.

A spec is made once, from the configuration and the data, and holds nothing that changes while
the run goes on. The shards of every stage are functions of it and of the policy that samples them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from pipeline.config.schema import Config
from pipeline.datasets.dataset import Dataset
from pipeline.generation.shards import EngineIdentity, SamplingParams, ShardSpec, shard_specs
from pipeline.generation.slices import labelled, shuffled, slice_of, subset
from pipeline.hashing import canonical_json, sha256_hex
from pipeline.prompts import PromptKind
from pipeline.query import Query
from pipeline.refs import PolicyRef, ShardSet
from pipeline.run.pools import UNLABELLED, hide, unlabelled_queries
from pipeline.run.state import GREEDY
from pipeline.selection.rules import Rule


@dataclass(frozen=True)
class RunSpec:
    """What a run is: its configuration, the queries it uses, and what samples and grades them.

    splits: by the names that the data has and, where unlabelled queries are used, `UNLABELLED`.
    """

    config: Config
    splits: Mapping[str, tuple[Query, ...]]
    engine: EngineIdentity
    grader: str

    @classmethod
    def of(cls, config: Config, dataset: Dataset, engine: EngineIdentity, grader: str) -> RunSpec:
        """The queries that the configuration names, out of a data set.

        Raises:
            BadConfig: unlabelled queries are to be used, and there are none, or all are hidden.
        """
        data = config.data
        train, hidden = hide(
            subset(labelled(dataset.split(data.train)), data.train_queries),
            data.unlabelled_share,
            data.split_seed,
        )
        splits = {data.train: tuple(train)}
        splits[data.validation] = tuple(
            subset(labelled(dataset.split(data.validation)), data.validation_queries)
        )
        for name in data.test:
            part = tuple(subset(labelled(dataset.split(name)), data.test_queries))
            if part:  # a test split that the data lack is left out
                splits[name] = part
        if config.unlabelled.use != "none":
            splits[UNLABELLED] = unlabelled_queries(config, dataset, hidden, train)
        return cls(config, splits, engine, grader)

    @cached_property
    def by_hash(self) -> dict[str, Query]:
        """Every query used, by its content hash."""
        return {query.content_hash: query for part in self.splits.values() for query in part}

    @property
    def pool(self) -> list[str]:
        """Content hashes of the labelled queries that are trained on."""
        return [query.content_hash for query in self.splits[self.config.data.train]]

    @property
    def unlabelled_pool(self) -> list[str]:
        """Content hashes of the unlabelled queries that are trained on; empty where none is."""
        return [query.content_hash for query in self.splits.get(UNLABELLED, ())]

    @property
    def test_splits(self) -> tuple[str, ...]:
        """Those of `data.test` that the data has."""
        return tuple(name for name in self.config.data.test if name in self.splits)

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        """What must be the same when the run is started again: contents and answers, and what
        samples and grades."""
        sums = {
            name: sha256_hex(
                canonical_json(
                    sorted((q.content_hash, q.answer or "", q.answer_type) for q in part)
                )
            )[:16]
            for name, part in self.splits.items()
        }
        return {"splits": sums, "engine": self.engine.identity, "grader": self.grader}

    def sampling(self, samples: int, temperature: float) -> SamplingParams:
        """K samples at a temperature, the rest as configured."""
        generate = self.config.generate
        return SamplingParams(samples, temperature, generate.top_p, generate.max_new_tokens)

    @cached_property
    def warmup_queries(self) -> tuple[str, ...]:
        """Content hashes of the labelled queries that the warm-up sees."""
        warmup = self.config.warmup
        order = shuffled(self.pool, self.config.run.seed, "warmup")
        return () if warmup.checkpoint is not None else tuple(order[: warmup.queries])

    def evolved_queries(self, iterations: int) -> frozenset[str]:
        """Those whose answers the final policy can have been trained by: of the warm-up, and of so
        many iterations; with the oracle, unlabelled ones, too."""
        drawn = {item for t in range(iterations) for item in self.slice(t)}
        if self.config.unlabelled.use == "oracle":
            drawn.update(item for t in range(iterations) for item in self.unlabelled_slice(t))
        return frozenset(drawn.union(self.warmup_queries))

    def control_queries(self, iterations: int) -> tuple[str, ...]:
        """Those that the control sees, which has as much supervision as the evolution: the same
        (by rules 1, those of the warm-up)."""
        if self.config.run.rules == 1:
            return self.warmup_queries
        seen = self.evolved_queries(iterations)
        order = shuffled(self.pool, self.config.run.seed, "warmup")
        return tuple(item for item in order if item in seen)

    def shard_specs(
        self,
        purpose: str,
        queries: Sequence[Query],
        policy: PolicyRef,
        sampling: SamplingParams,
        *,
        shard_queries: int | None = None,
        prompt: PromptKind = "question",
    ) -> tuple[ShardSpec, ...]:
        """The shards of `queries` as this run samples them: its engine, seed and templates.

        shard_queries: queries of a shard; None: `generate.shard_queries`.
        """
        config = self.config
        return tuple(
            shard_specs(
                purpose,
                queries,
                policy=policy.version,
                sampling=sampling,
                engine=self.engine,
                run_seed=config.run.seed,
                shard_queries=shard_queries or config.generate.shard_queries,
                prompt=prompt,
                templates=config.prompt.templates,
            )
        )

    def chain_specs(
        self, purpose: str, queries: Sequence[str], policy: PolicyRef
    ) -> tuple[ShardSpec, ...]:
        """Gold-conditioned chains of the base, for the warm-up or the control."""
        warmup = self.config.warmup
        sampling = self.sampling(warmup.samples, warmup.temperature)
        asked = [self.by_hash[item] for item in queries]
        return self.shard_specs(purpose, asked, policy, sampling, prompt="warmup")

    def slice(self, iteration: int) -> list[str]:
        """Content hashes of the labelled queries that an iteration draws."""
        config = self.config
        return slice_of(
            self.pool,
            iteration,
            config.evolve.interval,
            config.run.seed,
            reshuffle=config.run.rules > 1,
        )

    def unlabelled_slice(self, iteration: int) -> list[str]:
        """Content hashes of the unlabelled queries that an iteration draws, from T_mixin on."""
        config, pool = self.config, self.unlabelled_pool
        since = iteration - math.ceil(config.unlabelled.mix_in * config.evolve.iterations)
        if not pool or since < 0:
            return []
        return slice_of(pool, since, config.evolve.interval, config.run.seed)

    def evolve_specs(
        self, iteration: int, policy: PolicyRef, temperature: float
    ) -> tuple[ShardSpec, ...]:
        """The labelled queries of an iteration."""
        drawn = self.slice(iteration)
        return self._drawn_specs(ShardSet("evolve", iteration), drawn, policy, temperature)

    def unlabelled_specs(
        self, iteration: int, policy: PolicyRef, temperature: float
    ) -> tuple[ShardSpec, ...]:
        """The unlabelled queries of an iteration."""
        drawn = self.unlabelled_slice(iteration)
        return self._drawn_specs(ShardSet("unlabelled", iteration), drawn, policy, temperature)

    def _drawn_specs(
        self, purpose: ShardSet, drawn: Sequence[str], policy: PolicyRef, temperature: float
    ) -> tuple[ShardSpec, ...]:
        sampling = self.sampling(self.config.generate.samples, temperature)
        asked = [self.by_hash[item] for item in drawn]
        return self.shard_specs(purpose, asked, policy, sampling)

    def evaluation_specs(self, policy: PolicyRef, split: str, mode: str) -> tuple[ShardSpec, ...]:
        """A split, greedily or sampled."""
        evaluate = self.config.evaluate
        samples, temperature = (
            (1, 0.0) if mode == GREEDY else (self.samples(split), evaluate.temperature)
        )
        return self.shard_specs(
            evaluation_purpose(policy, split, mode),
            self.splits[split],
            policy,
            self.sampling(samples, temperature),
            shard_queries=evaluate.shard_queries,
        )

    def exploration_specs(
        self, policy: PolicyRef, temperature: float, samples: int, queries: int | None
    ) -> tuple[ShardSpec, ...]:
        """Validation questions (`queries` of them at most) at a temperature; 0: greedily. A sample
        has the same seed at every temperature (common random numbers)."""
        asked = self.splits[self.config.data.validation][:queries]
        return self.shard_specs(
            exploration_purpose(policy, len(asked), temperature, samples),
            asked,
            policy,
            self.sampling(samples if temperature else 1, temperature),
            shard_queries=self.config.evaluate.shard_queries,
        )

    def samples(self, split: str) -> int:
        """K of Pass@K on a split; 0: not sampled."""
        evaluate, data = self.config.evaluate, self.config.data
        return evaluate.samples if split == data.validation else evaluate.test_samples

    @property
    def rule(self) -> Rule:
        """What evolution keeps."""
        select = self.config.select
        version = self.config.run.rules
        return Rule(select.rule, select.k, select.threshold, self._ours_only, select.by, version)

    @property
    def warmup_rule(self) -> Rule:
        """What the warm-up keeps of the correct chains."""
        keep = self.config.warmup.keep
        rule = Rule("all_correct") if keep is None else Rule("random_k", keep)
        return replace(rule, ours_only=self._ours_only, version=self.config.run.rules)

    @property
    def _ours_only(self) -> bool:
        return self.config.prompt.trained == "ours"


def evaluation_purpose(policy: PolicyRef, split: str, mode: str) -> ShardSet:
    """The shards that a policy is evaluated on."""
    return ShardSet(f"evaluate/{policy.version}/{split}/{mode}")


def exploration_purpose(
    policy: PolicyRef, queries: int, temperature: float, samples: int
) -> ShardSet:
    """The shards of so many validation questions at a temperature; 0: greedily."""
    kind = f"T{temperature:g}-K{samples}" if temperature else "greedy"
    return ShardSet(f"explore/{policy.version}/{queries}/{kind}")
