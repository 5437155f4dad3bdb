"""What each stage stores: one frozen dataclass = one versioned Arrow schema = one kind of parquet.

What always holds:

* equal rows give equal bytes, with one pyarrow version: no time, host or order of arrival is in
  them, so equal work has one content hash;
* a file says which record and version it holds; another record, version or schema is refused by
  name, never guessed at;
* no number is NaN or infinite and lists that belong together have one length: a missing score is an
  error where it is written, not where it is trained on.

Every column's description and unit travel in the file (`pq.read_schema(f).field("seed").metadata`).
pandas, duckdb and `datasets` read the files as they are: see docs/storage.md.

Axes: T tokens of a response, S steps of a response.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa

from pipeline.storage.parquet import Record, column

_INT32_T = pa.list_(pa.field("item", pa.int32(), nullable=False))
_FLOAT32_T = pa.list_(pa.field("item", pa.float32(), nullable=False))
_STRINGS = pa.list_(pa.field("item", pa.string(), nullable=False))
_FLOAT64_S = pa.list_(pa.field("item", pa.float64(), nullable=False))


@dataclass(frozen=True, slots=True)
class QueryRow:
    """One query that a run uses, complete, as it was when the run began."""

    VERSION: ClassVar[int] = 1
    LABEL: ClassVar[str] = "Asked"

    query: str = column("content hash of the query (question, choices, images)", unit="sha256 hex")
    query_id: str = column("the query's id in its data set")
    split: str = column("the split it belongs to")
    question: str = column("text without choices and image placeholders")
    choices: tuple[str, ...] = column(
        "texts of the choices; none for a free question", type=_STRINGS
    )
    images: tuple[str, ...] = column(
        "content hashes of its images, in prompt order", unit="sha256 hex", type=_STRINGS
    )
    answer: str | None = column("the gold answer; null when there is none")
    answer_type: str = column("which rule grades it")
    unlabelled: bool = column("whether the loop treats the answer as hidden")
    source: str = column("where it comes from")


@dataclass(frozen=True, slots=True)
class Rollout:
    """One sampled response, as the engine gave it."""

    VERSION: ClassVar[int] = 1

    query: str = column("content hash of the query (question, choices, images)", unit="sha256 hex")
    query_id: str = column("the query's id in its data set")
    sample_index: int = column("which of the query's K samples this is", unit="0..K-1")
    seed: int = column("seed of this sample's own engine request")
    policy: str = column("version of the policy that was sampled from")
    temperature: float = column("sampling temperature; 0 is greedy")
    top_p: float = column("share of probability mass sampled from", unit="(0, 1]")
    prompt_sha256: str = column("hash of the processor's input ids", unit="sha256 hex")
    prompt_tokens: int = column("length of the prompt, image tokens included", unit="tokens")
    token_ids: tuple[int, ...] = column("the sampled ids, end token included", type=_INT32_T)
    logprobs: tuple[float, ...] = column(
        "log-probability of each sampled id under the distribution it was drawn from",
        unit="nats",
        type=_FLOAT32_T,
        beside="token_ids",
    )
    text: str = column("the decoded response")
    finish: str = column('why it ended: "stop" (end token) or "length" (cut)')


@dataclass(frozen=True, slots=True)
class Grade:
    """What the grader found in one rollout."""

    VERSION: ClassVar[int] = 1

    query: str = column("content hash of the query", unit="sha256 hex")
    sample_index: int = column("which of the query's K samples this is", unit="0..K-1")
    outcome: str = column('"correct", "wrong", "unparsed" or "timeout"')
    extracted: str | None = column("the answer found in the response; null when there is none")


@dataclass(frozen=True, slots=True)
class AnswerClass:
    """Which answers to an unlabelled query the grader calls equal."""

    VERSION: ClassVar[int] = 1

    query: str = column("content hash of the query", unit="sha256 hex")
    sample_index: int = column("which of the query's K samples this is", unit="0..K-1")
    equals: int | None = column(
        "the first sample whose answer is equal; null for a response without a readable answer, "
        "or a truncated one",
        unit="0..K-1",
    )


@dataclass(frozen=True, slots=True)
class Score:
    """What the process reward model says of one rollout's steps."""

    VERSION: ClassVar[int] = 1

    query: str = column("content hash of the query", unit="sha256 hex")
    sample_index: int = column("which of the query's K samples this is", unit="0..K-1")
    step_ends: tuple[int, ...] = column(
        "for each step, the number of response tokens up to its end", unit="tokens", type=_INT32_T
    )
    step_scores: tuple[float, ...] = column(
        "for each step, the probability that it leads to the right answer (after the sigmoid)",
        unit="[0, 1]",
        type=_FLOAT64_S,
        beside="step_ends",
    )
    reward_p: float = column(
        "process reward of the response: its step scores, aggregated", unit="[0, 1]"
    )


@dataclass(frozen=True, slots=True)
class StepValues:
    """The Monte-Carlo values of one response's steps, which a process reward model learns."""

    VERSION: ClassVar[int] = 1

    query: str = column("content hash of the query", unit="sha256 hex")
    query_id: str = column("the query's id in its data set")
    sample_index: int = column("which of the query's K samples this is", unit="0..K-1")
    rollout_shard: str = column("store path of the rollout shard this row came from")
    prompt_sha256: str = column("hash of the processor's input ids", unit="sha256 hex")
    prompt_tokens: int = column("length of the prompt, image tokens included", unit="tokens")
    correct: bool = column("whether the response's own answer is right")
    held_out: bool = column("set aside for the gate, by image; not trained on")
    token_ids: tuple[int, ...] = column("the sampled ids, end token included", type=_INT32_T)
    step_ends: tuple[int, ...] = column(
        "for each step, the number of response tokens up to its end", unit="tokens", type=_INT32_T
    )
    values: tuple[float, ...] = column(
        "for each step, the share of completions from its end that reached the gold answer",
        unit="[0, 1]",
        type=_FLOAT64_S,
        beside="step_ends",
    )
    completions: tuple[int, ...] = column(
        "graded completions behind each value; 0: after a step of value 0, not measured",
        type=_INT32_T,
        beside="step_ends",
    )


@dataclass(frozen=True, slots=True)
class Selected:
    """One response that the policy is trained on."""

    VERSION: ClassVar[int] = 1

    query: str = column("content hash of the query", unit="sha256 hex")
    query_id: str = column("the query's id in its data set")
    sample_index: int = column("which of the query's K samples this is", unit="0..K-1")
    rollout_shard: str = column("store path of the rollout shard this row came from")
    token_ids: tuple[int, ...] = column("the sampled ids, end token included", type=_INT32_T)
    logprobs: tuple[float, ...] = column(
        "log-probability of each id when it was sampled",
        unit="nats",
        type=_FLOAT32_T,
        beside="token_ids",
    )
    prompt_sha256: str = column("hash of the processor's input ids", unit="sha256 hex")
    reward: float = column("the reward it was selected by")


RECORDS: tuple[type[Record], ...] = (
    QueryRow,
    Rollout,
    Grade,
    AnswerClass,
    Score,
    StepValues,
    Selected,
)
