"""What is sampled next: slices of the pool, shards in order, seeds. Pure functions, no state.

A plan is a list of shard specs, and it is the same list whenever and wherever it is made. A shard
holds whole query groups, so grading and selecting it need no other shard. Its key is a hash of
everything that decides its content; where in a run it is used (`purpose`, `index`) is not part of
it, so equal work has one key.

Axes: Q queries of a shard, K samples of a query.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from pipeline.hashing import canonical_json, key_of, sha256_hex
from pipeline.prompts import PromptKind, PromptTemplates
from pipeline.query import Query

SEED_BITS = 62
# Changing how seeds are made changes every sample: the rule's name is part of every shard's key.
SEED_RULE = "sha256/62"


@dataclass(frozen=True)
class EngineIdentity:
    """What of an engine can change a sample: its name and version, and the options it is built
    with (tokens of context at most, GPUs it spans)."""

    name: str
    version: str
    precision: str
    tensor_parallel_size: int
    max_model_len: int

    @property
    def identity(self) -> dict[str, object]:
        """As keys hash it, under the names of their rule: renaming a field moves no key."""
        return {
            "name": self.name,
            "version": self.version,
            "precision": self.precision,
            "tensor_parallel_size": self.tensor_parallel_size,
            "max_model_len": self.max_model_len,
        }


@dataclass(frozen=True)
class SamplingParams:
    """How a query is sampled: K samples; temperature 0 is greedy decoding."""

    samples: int
    temperature: float
    top_p: float
    max_new_tokens: int

    @property
    def identity(self) -> dict[str, object]:
        """As keys hash it, under the names of their rule."""
        return {
            "samples": self.samples,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_new_tokens": self.max_new_tokens,
        }


@dataclass(frozen=True)
class SamplePart:
    """Samples of a query that start from the same ids: the sample index of the first of them, the
    sampled ids they continue (none but for Monte-Carlo completions), and a seed for each."""

    first_index: int
    prefix: tuple[int, ...]
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class ShardSpec:
    """One unit of generation.

    purpose, index: where in the run it is used ("evolve/3", 7); not part of its identity.
    policy: version of the policy that samples: a hash of its whole folder, processor, tokenizer
        and chat template included.
    queries_Q: content hashes.
    prompt: "question", or "warmup" with the gold answer and an instruction to explain it.
    templates: what it is asked with.
    prompt_sha256: hash of the texts asked, one for each query.
    run_seed: root of the samples' seeds.
    """

    purpose: str
    index: int
    policy: str
    queries_Q: tuple[str, ...]
    prompt: PromptKind
    templates: PromptTemplates
    prompt_sha256: str
    sampling: SamplingParams
    engine: EngineIdentity
    run_seed: int

    @cached_property
    def key(self) -> str:
        """Readable prefix and 16 hex digits over everything that decides the content."""
        kind = "greedy" if self.sampling.temperature == 0 else self.prompt
        return key_of(
            kind,
            {
                "policy": self.policy,
                "queries": self.queries_Q,
                "prompt": self.prompt_sha256,
                "sampling": self.sampling.identity,
                "engine": self.engine.identity,
                "seeds": [SEED_RULE, self.run_seed],
            },
        )

    @property
    def rows(self) -> int:
        """Samples in the shard."""
        return len(self.queries_Q) * self.sampling.samples

    def seed(self, query: str, sample_index: int) -> int:
        """The seed of one sample's engine request."""
        return sample_seed(self.run_seed, self.policy, query, sample_index)

    def samples_of(self, query: str) -> int:
        """How many samples of one query are in the shard."""
        return self.sampling.samples

    def parts(self, query: str) -> list[SamplePart]:
        """What is sampled of one query."""
        seeds = tuple(self.seed(query, k) for k in range(self.sampling.samples))
        return [SamplePart(0, (), seeds)]


def sample_seed(run_seed: int, policy: str, query: str, sample_index: int) -> int:
    """A seed of 62 bits that no other sample of the run has: a hash, never `seed + i`."""
    digest = sha256_hex(canonical_json([run_seed, policy, query, sample_index]))
    return int(digest[:16], 16) >> (64 - SEED_BITS)


def shard_specs(
    purpose: str,
    queries: Sequence[Query],
    *,
    policy: str,
    sampling: SamplingParams,
    engine: EngineIdentity,
    run_seed: int,
    shard_queries: int,
    prompt: PromptKind = "question",
    templates: PromptTemplates,
) -> list[ShardSpec]:
    """The shards of `queries`, whole query groups in the order given.

    Greedy decoding draws nothing, so its shards are the same for every seed of a run.
    """
    specs = []
    for index, start in enumerate(range(0, len(queries), shard_queries)):
        group_Q = queries[start : start + shard_queries]
        texts_Q = [templates.text(query, prompt) for query in group_Q]
        specs.append(
            ShardSpec(
                purpose=purpose,
                index=index,
                policy=policy,
                queries_Q=tuple(query.content_hash for query in group_Q),
                prompt=prompt,
                templates=templates,
                prompt_sha256=templates.hash_of(texts_Q),
                sampling=sampling,
                engine=engine,
                run_seed=run_seed if sampling.temperature > 0 else 0,
            )
        )
    return specs
