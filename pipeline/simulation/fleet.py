"""Scripted engines: responses that are a function of query, seed and the policy's skill.

A response is a way to the answer, and the answer. With `steps` it has two, "a<i>" and "b<j>", one
token for each character; a step with the number 1 is a bad one, after which a correct answer is
rarer. Greedy responses depend on the query alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from pipeline.errors import ArtifactLost
from pipeline.generation.fleet import BadQuery, ShardDone, ShardFailed
from pipeline.generation.shards import EngineIdentity, SamplePart, ShardSpec
from pipeline.hashing import canonical_json, sha256_hex
from pipeline.query import Query
from pipeline.records import Rollout
from pipeline.refs import PolicyRef
from pipeline.simulation.mail import Answers, Mail
from pipeline.simulation.small_trees import read_small_tree
from pipeline.storage.artifacts import ROLLOUTS, needed, put_content
from pipeline.storage.parquet import to_parquet
from pipeline.storage.store import Store

ENGINE = EngineIdentity("scripted", "1", "float32", 1, 512)


def share(*parts: object) -> float:
    """A number in [0, 1) that is a function of its arguments."""
    return int(sha256_hex(canonical_json(list(parts)))[:13], 16) / 16.0**13


def decode(ids: Sequence[int]) -> str:
    """Text of tokens, one for each byte."""
    return bytes(ids).decode()


class ScriptedFleet(Answers):
    """Engines that generate at once and answer when the mail does.

    bad: queries that always fail. fail: indices of shards that always do. lost: while it is set,
    everything that reads this object fails. slow: the share of shards that are only generated when
    their answer is delivered. reads_images: whether a query's images are read from the store.
    drifts: shards whose purpose starts with this come out otherwise than those before it was set.
    best: the temperature at which samples are correct most often; None: it makes no difference.
    """

    def __init__(
        self, store: Store, queries: Mapping[str, Query], mail: Mail, *, steps: bool = False
    ) -> None:
        self.store = store
        self.queries = queries
        self.mail = mail
        self.steps = steps
        self.bad: set[str] = set()
        self.fail: set[int] = set()
        self.lost = ""
        self.slow = 0.0
        self.reads_images = False
        self.drifts = ""
        self.best: float | None = None
        self.generated: list[str] = []

    def submit(self, spec: ShardSpec, policy: PolicyRef) -> None:
        assert policy.version == spec.policy
        if self.lost:
            self.mail.post(ShardFailed(spec.key, "it is corrupt", "lost", self.lost))
            return
        if spec.index in self.fail:
            self.mail.post(ShardFailed(spec.key, "every engine died"))
            return
        self.generated.append(spec.key)
        work = partial(self._generate, spec, policy)
        self.mail.post(work if self.slow and self.mail.random.random() < self.slow else work())

    def _generate(self, spec: ShardSpec, policy: PolicyRef) -> ShardDone | ShardFailed:
        try:
            skill = read_small_tree(self.store, policy.path, "model.json")["skill"]
            for query in spec.queries_Q if self.reads_images else ():
                for sha in self.queries[query].images:
                    _read_image(self.store, sha)
        except ArtifactLost as lost:
            return ShardFailed(spec.key, str(lost), "lost", lost.path)
        rows = [
            self.response(spec, self.queries[name], part, i, skill)
            for name in spec.queries_Q
            if name not in self.bad
            for part in spec.parts(name)
            for i in range(len(part.seeds))
        ]
        path = put_content(self.store, ROLLOUTS, spec.key, to_parquet(rows, Rollout), "parquet")
        bad = tuple(BadQuery(q, "prompt too long") for q in spec.queries_Q if q in self.bad)
        tokens = sum(len(row.token_ids) for row in rows)
        return ShardDone(spec.key, path, len(rows), tokens, 0.1, "engine-0", bad)

    def response(
        self, spec: ShardSpec, query: Query, part: SamplePart, i: int, skill: float
    ) -> Rollout:
        """Sample i of a part, as an engine gives it."""
        seed, prefix = part.seeds[i], part.prefix
        drawn = seed + (bool(self.drifts) and spec.purpose.startswith(self.drifts))
        luck = drawn if spec.sampling.temperature else query.content_hash
        if self.steps and spec.prompt == "question":
            text, truncated = _of_steps(query, decode(prefix), luck)
        else:
            off = 0.0 if self.best is None else abs(spec.sampling.temperature - self.best)
            reach = 0.9 if spec.prompt == "warmup" else skill * max(0.0, 1.0 - off)
            skilled = share("luck", luck) < (reach if spec.sampling.temperature else skill)
            text, truncated = _of_one_way(query.answer if skilled else "no", seed)
        ids = tuple(text.encode())[len(prefix) :]
        return Rollout(
            query=query.content_hash,
            query_id=query.query_id,
            sample_index=part.first_index + i,
            seed=seed,
            policy=spec.policy,
            temperature=spec.sampling.temperature,
            top_p=spec.sampling.top_p,
            prompt_sha256="0" * 64,
            prompt_tokens=7,
            token_ids=ids,
            logprobs=tuple(-0.5 for _ in ids),
            text=text,
            finish="length" if truncated else "stop",
        )


def _of_one_way(answer: str | None, seed: int) -> tuple[str, bool]:
    truncated = share("cut", seed) < 0.05
    way = int(4 * share("way", seed))
    return f"way {way}\n\n# Answer\n\n{'' if truncated else answer}", truncated


def _of_steps(query: Query, prefix: str, luck: object) -> tuple[str, bool]:
    """Goes on from the prefix; some completions of one are truncated."""
    text = prefix
    for name in "ab":
        if name not in text:
            text += f"{name}{int(3 * share(name, luck))}\n\n"
    bad = sum(character == "1" for character in text)
    answer = query.answer if share("answer", luck) < (0.9, 0.4, 0.1)[bad] else "no"
    return f"{text}# Answer\n\n{answer}", bool(prefix) and share("cut", luck) < 0.1


def _read_image(store: Store, sha: str) -> None:
    """Raises ArtifactLost when a byte of an image is not what was put."""
    with needed(f"images/{sha}"):
        found = sha256_hex(store.get(f"images/{sha}"))
    if found != sha:
        raise ArtifactLost(f"images/{sha}", f"its bytes hash to {found}")
