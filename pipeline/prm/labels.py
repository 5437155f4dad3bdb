"""Monte-Carlo labels: which responses are labelled, from which prefixes, and what comes of it.

The value of a step is the share of completions, sampled after the step's end, that reach the gold
answer (paper section 3). Everything here is a pure function of rows, outcomes and a seed:

* only questions that the policy gets sometimes right and sometimes wrong are labelled: the others
  say nothing about steps;
* a prefix is the sampled ids up to a step's end, never text that is tokenised again; two responses
  that share their first steps share these prefixes, which are completed once;
* a completion that the grader did not finish with counts neither way; a response with a step that
  nothing is known of is left out and counted, never given a 0.

Axes: Q queries, S steps of a response, T tokens, N completions of a prefix.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Literal, Protocol

from pipeline.datasets.splits import components
from pipeline.hashing import canonical_json, sha256_hex
from pipeline.query import Query
from pipeline.responses import MOST_STEPS, merged, step_ends
from pipeline.selection.rules import SampleRow, dedup

GRADED = ("correct", "wrong")
LabelKind = Literal["soft", "hard"]
Stop = Literal["never", "wrong", "any"]
"""Where labelling stops after a step of value 0: in wrong responses only, or in any. A correct
response did reach the answer, so what follows such a step in it is worth something."""
Decode = Callable[[Sequence[int]], str]


class SampledRow(SampleRow, Protocol):
    """What labelling reads of a rollout."""

    @property
    def query_id(self) -> str: ...
    @property
    def token_ids(self) -> tuple[int, ...]: ...
    @property
    def prompt_sha256(self) -> str: ...
    @property
    def prompt_tokens(self) -> int: ...


@dataclass(frozen=True)
class Labelled:
    """A response whose steps get values. `rollout_shard`: store path of the shard it is from."""

    query: str
    query_id: str
    sample_index: int
    rollout_shard: str
    prompt_sha256: str
    prompt_tokens: int
    token_ids_T: tuple[int, ...]
    correct: bool
    step_ends_S: tuple[int, ...]
    held_out: bool


@dataclass(frozen=True)
class Prefix:
    """What completions start from: a query and the sampled ids up to a step's end."""

    query: str
    token_ids_T: tuple[int, ...]


@dataclass(frozen=True)
class Reached:
    """Of `graded` completions of a prefix, `correct` reached the gold answer."""

    correct: int
    graded: int

    @property
    def value(self) -> float:
        """The step's value; `graded` must not be 0."""
        return self.correct / self.graded


@dataclass(frozen=True)
class Picked:
    """What became of the questions and samples that annotation could choose from.

    mixed: questions with a usable correct and a usable wrong response. stepless, cut, ungraded:
    distinct samples that cannot be labelled: without a finished step, cut by the length limit,
    unparsed or not graded in time. unknown: responses left out because no completion of one of
    their prefixes was graded.
    """

    questions: int = 0
    always_right: int = 0
    never_right: int = 0
    mixed: int = 0
    stepless: int = 0
    cut: int = 0
    ungraded: int = 0
    responses: int = 0
    responses_right: int = 0
    held_out: int = 0
    unknown: int = 0

    def __add__(self, other: Picked) -> Picked:
        return Picked(
            *(getattr(self, item.name) + getattr(other, item.name) for item in fields(self))
        )

    def to_dict(self) -> dict[str, int]:
        """Plain form for an event."""
        return asdict(self)


@dataclass(frozen=True)
class Take:
    """How many responses of a question are labelled.

    pairs: right responses, and as many wrong ones, of a question that is trained on. held_out:
    right responses of a question that is set aside, besides one wrong one: the gate compares right
    responses of one question with each other.
    """

    pairs: int = 1
    held_out: int = 4
    most_steps: int = MOST_STEPS


def held_out_queries(queries: Sequence[Query], share: float, seed: int) -> frozenset[str]:
    """Content hashes of about `share` of the queries, set aside by image.

    No image is on both sides, whatever questions it is shared by (paper section 7, trap 7). At
    least one group stays on each side where there are two.
    """
    groups = components(queries)

    def ticket(group: list[int]) -> str:
        images = [image for index in group for image in queries[index].images]
        anchor = min(images) if images else queries[group[0]].content_hash
        return sha256_hex(canonical_json(["held out", seed, anchor]))

    out: set[str] = set()
    for group in sorted(groups, key=ticket)[: max(0, len(groups) - 1)]:
        if out and len(out) + len(group) > share * len(queries):
            continue
        out |= {queries[index].content_hash for index in group}
    return frozenset(out)


def pick(
    rows: Sequence[SampledRow],
    outcomes: Sequence[str],
    shards: Sequence[str],
    *,
    decode: Decode,
    take: Take,
    held_out: Collection[str],
    seed: int,
) -> tuple[list[Labelled], Picked]:
    """The responses to label, in order of query and sample index, and what was left out.

    rows, outcomes, shards: parallel; whole query groups. seed: of the draw among the responses of
    one question, which is at random, since every sample has a seed of its own.
    """
    place = {(row.query, row.sample_index): i for i, row in enumerate(rows)}
    groups: dict[str, list[SampledRow]] = {row.query: [] for row in rows}
    for row in _distinct(rows, outcomes):
        groups[row.query].append(row)
    chosen: list[Labelled] = []
    counts = Picked()
    for query, group in groups.items():
        apart = query in held_out
        mine, counted = _of_one_question(
            group, [outcomes[place[row.query, row.sample_index]] for row in group],
            decode, take, apart=apart, seed=seed,
        )  # fmt: skip
        counts += counted
        chosen += [
            _labelled(row, right, ends, shards[place[row.query, row.sample_index]], apart)
            for row, right, ends in mine
        ]
    return chosen, counts


def _distinct(rows: Sequence[SampledRow], outcomes: Sequence[str]) -> list[SampledRow]:
    """Equal texts once. One that was cut, or not graded in time, never stands for one that can be
    labelled."""
    graded = zip(rows, outcomes, strict=True)
    able = dedup([row for row, outcome in graded if row.finish == "stop" and outcome in GRADED])
    texts = {(row.query, row.text) for row in able}
    return able + [row for row in dedup(rows) if (row.query, row.text) not in texts]


Usable = tuple[SampledRow, bool, tuple[int, ...]]


def _of_one_question(
    group: Sequence[SampledRow],
    outcomes: Sequence[str],
    decode: Decode,
    take: Take,
    *,
    apart: bool,
    seed: int,
) -> tuple[list[Usable], Picked]:
    usable: list[Usable] = []
    cut = ungraded = stepless = 0
    for row, outcome in zip(group, outcomes, strict=True):
        if row.finish != "stop":
            cut += 1
        elif outcome not in GRADED:
            ungraded += 1
        elif not (ends := step_ends(row.token_ids, decode)):
            stepless += 1
        else:
            usable.append((row, outcome == "correct", merged(ends, take.most_steps)))
    usable.sort(key=lambda item: _ticket(seed, item[0]))
    right = [item for item in usable if item[1]]
    wrong = [item for item in usable if not item[1]]
    pairs = min(take.pairs, len(right), len(wrong))
    drawn = right[: take.held_out] + wrong[:1] if apart else right[:pairs] + wrong[:pairs]
    if not (right and wrong):
        drawn = []
    counted = Picked(
        questions=1,
        always_right=bool(right) and not wrong,
        never_right=not right,
        mixed=bool(drawn),
        stepless=stepless,
        cut=cut,
        ungraded=ungraded,
        responses=len(drawn),
        responses_right=sum(item[1] for item in drawn),
        held_out=len(drawn) if apart else 0,
    )
    return sorted(drawn, key=lambda item: item[0].sample_index), counted


def _ticket(seed: int, row: SampledRow) -> str:
    return sha256_hex(canonical_json(["label", seed, row.query, row.sample_index, row.seed]))


def _labelled(
    row: SampledRow, right: bool, ends: tuple[int, ...], shard: str, apart: bool
) -> Labelled:
    return Labelled(
        query=row.query,
        query_id=row.query_id,
        sample_index=row.sample_index,
        rollout_shard=shard,
        prompt_sha256=row.prompt_sha256,
        prompt_tokens=row.prompt_tokens,
        token_ids_T=tuple(row.token_ids),
        correct=right,
        step_ends_S=ends,
        held_out=apart,
    )


# --- prefixes ------------------------------------------------------------------------------------


def prefixes_of(response: Labelled) -> list[Prefix]:
    """The prefix of every step of a response."""
    return [Prefix(response.query, response.token_ids_T[:end]) for end in response.step_ends_S]


def next_prefixes(
    responses: Iterable[Labelled], found: Mapping[Prefix, Reached], *, stop: Stop
) -> list[Prefix]:
    """The prefixes to complete now, each once; empty when nothing is left.

    Of a response that labelling may stop in these are the first step that nothing is known of,
    unless an earlier one has value 0: nothing is expected to come of what follows it. Of others,
    all.
    """
    wanted: dict[Prefix, None] = {}
    for response in responses:
        early_stop = stops_in(response, stop)
        for prefix in prefixes_of(response):
            known = found.get(prefix)
            if known is None:
                wanted[prefix] = None
                if early_stop:
                    break
            elif early_stop and known.graded and not known.correct:
                break
    return list(wanted)


def stops_in(response: Labelled, stop: Stop) -> bool:
    """Whether labelling may end inside this response."""
    return stop == "any" or (stop == "wrong" and not response.correct)


def step_values(
    response: Labelled, found: Mapping[Prefix, Reached], *, stop: Stop
) -> tuple[tuple[float, ...], tuple[int, ...]] | None:
    """The value of each step, and how many graded completions stand behind it.

    After a step of value 0, in a response that labelling may stop in, values are imputed: 0 with 0
    completions behind them. None when a step is unknown because nothing of its prefix was graded.
    """
    early_stop = stops_in(response, stop)
    values_S: list[float] = []
    graded_S: list[int] = []
    for prefix in prefixes_of(response):
        if early_stop and values_S and values_S[-1] == 0.0:
            values_S.append(0.0)
            graded_S.append(0)
            continue
        known = found.get(prefix)
        if known is None or not known.graded:
            return None
        values_S.append(known.value)
        graded_S.append(known.graded)
    return tuple(values_S), tuple(graded_S)


def target(value: float, kind: LabelKind) -> float:
    """What a step is trained towards: its value, or 1 where any completion got there (hard)."""
    return value if kind == "soft" else float(value > 0.0)


@dataclass(frozen=True)
class Cost:
    """What annotation will take at most; early stopping makes it less.

    tokens: those of the completions, if each is as long as the rest of the response it leaves.
    """

    questions: int
    responses: int
    steps: int
    prefixes: int
    rollouts: int
    tokens: int

    def __str__(self) -> str:
        return (
            f"annotation: {self.responses} responses to {self.questions} questions, {self.steps} "
            f"steps, {self.prefixes} prefixes; at most {self.rollouts} rollouts and about "
            f"{self.tokens} tokens"
        )


def cost(responses: Sequence[Labelled], completions: int) -> Cost:
    """Known before the first completion is sampled."""
    left: dict[Prefix, int] = {}
    for response in responses:
        for prefix in prefixes_of(response):
            rest = len(response.token_ids_T) - len(prefix.token_ids_T)
            left[prefix] = max(left.get(prefix, 0), rest)
    return Cost(
        questions=len({response.query for response in responses}),
        responses=len(responses),
        steps=sum(len(response.step_ends_S) for response in responses),
        prefixes=len(left),
        rollouts=len(left) * completions,
        tokens=sum(left.values()) * completions,
    )
