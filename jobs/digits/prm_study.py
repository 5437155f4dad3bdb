"""Can a process reward model work on `digits`? Labels, training and choice, in miniature.

    python -m jobs.digits.prm_study --warmup POLICY --out out/prm-study

On plain transformers, one process. Samples a warm-up policy, labels steps by Monte-Carlo
completions, trains a PRM, and measures on validation questions, with the process checker, what the
loop will depend on: AUC within a question between true and lucky responses with a right answer, and
how much of the way from random to oracle its Top-2 goes. Five PRMs: trained as a whole on soft and
on hard labels; on the checker's truth, which says whether labels or capacity are the limit (an
oracle, here only); the head alone, where it also sees how likely the model finds the response; and
that likelihood alone, untrained.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from actors.reference.policy import PlainPolicy
from actors.reference.prm import PlainPrm, StepExample, train_prm
from jobs.digits.headroom_study import SIZES, Study, plain
from jobs.digits.headroom_study import Settings as StudySettings
from pipeline.metrics.auc import auc
from pipeline.prm.gate import Scored, closed, within_auc
from pipeline.prm.labels import (
    LabelKind,
    Labelled,
    Prefix,
    Reached,
    Take,
    cost,
    next_prefixes,
    pick,
    step_values,
    target,
)
from pipeline.prompts import question_text
from pipeline.query import Query
from pipeline.responses import step_ends
from pipeline.selection.rewards import Aggregate, reward_p
from pipeline.tasks.digits.build import build
from pipeline.tasks.digits.measure import Judged

LABELS: tuple[LabelKind, ...] = ("soft", "hard")

AGGREGATES: tuple[Aggregate, ...] = ("min", "mean", "product", "last")


@dataclass(frozen=True)
class Sizes:
    """Questions, samples and training of the study."""

    queries: int = 400
    samples: int = 8
    pairs: int = 2
    completions: int = 8
    early_stop: bool = True
    held_out: int = 120
    choice: int = 16
    lr: float = 5e-4
    epochs: int = 6
    head_lr: float = 1e-2
    head_epochs: int = 4
    batch: int = 32


@dataclass(frozen=True)
class Row:
    """A sample as `pipeline.prm.labels` reads it."""

    query: str
    query_id: str
    sample_index: int
    seed: int
    text: str
    finish: str
    token_ids: tuple[int, ...]
    prompt_sha256: str = ""
    prompt_tokens: int = 0


@dataclass(frozen=True)
class Sampled:
    """K samples of each question, judged."""

    queries: list[Query]
    rows: list[Row]
    judged: list[Judged]


def sample(study: Study, policy: PlainPolicy, queries: list[Query], k: int) -> Sampled:
    """K samples of each query at T = 1."""
    ids_Q_K = study.sample(policy, queries, k, 1.0)
    rows, judged = [], []
    for query, ids_K in zip(queries, ids_Q_K, strict=True):
        for index, ids in enumerate(ids_K):
            one = study.judge(policy, query, ids)
            finish = "stop" if ids and ids[-1] == policy.end else "length"
            rows.append(
                Row(query.content_hash, query.query_id, index, index, one.text, finish, ids)
            )
            judged.append(one)
    return Sampled(queries, rows, judged)


def annotate(
    study: Study, policy: PlainPolicy, queries: dict[str, Query], responses: list[Labelled],
    sizes: Sizes,
) -> dict[Prefix, Reached]:  # fmt: skip
    """Completions of every prefix, in rounds."""
    found: dict[Prefix, Reached] = {}
    n = sizes.completions
    while wanted := next_prefixes(responses, found, early_stop=sizes.early_stop):
        prompts, pixels = [], []
        for prefix in wanted:
            query = queries[prefix.query]
            prompts += [policy.prompt_ids(question_text(query), True) + prefix.token_ids_T] * n
            pixels += [study.pixels[query.images[0]]] * n
        rows = policy.sample(prompts, pixels, 1.0, study.seed + 1 + len(found))
        for place, prefix in enumerate(wanted):
            query = queries[prefix.query]
            right = sum(
                study.judge(policy, query, prefix.token_ids_T + ids).correct
                for ids in rows[place * n : (place + 1) * n]
            )
            found[prefix] = Reached(right, n)
        study.say(f"{len(wanted)} prefixes completed")
    return found


def examples(
    study: Study, policy: PlainPolicy, queries: dict[str, Query], responses: Sequence[Labelled],
    targets: Sequence[Sequence[float]],
) -> list[StepExample]:  # fmt: skip
    """Labelled responses as rows to train on."""
    made = []
    for response, targets_S in zip(responses, targets, strict=True):
        query = queries[response.query]
        made.append(
            StepExample(
                policy.prompt_ids(question_text(query), True),
                response.token_ids_T,
                response.step_ends_S,
                tuple(targets_S),
                study.pixels[query.images[0]],
            )
        )
    return made


def truth_of(study: Study, policy: PlainPolicy, query: Query, ids: tuple[int, ...]) -> list[float]:
    """1 up to the first step that does not hold, 0 from there on: the checker's labels."""
    judged = study.judge(policy, query, ids)
    first = judged.verdict.first_false
    count = len(judged.verdict.steps_S)
    return [float(first is None or step < first) for step in range(count)]


def measure(study: Study, policy: PlainPolicy, prm: PlainPrm, sampled: Sampled) -> dict[str, Any]:
    """Within-question AUC and `closed` by the checker's truth, for every way to aggregate."""
    by_hash = {query.content_hash: query for query in sampled.queries}
    seen: set[tuple[str, str]] = set()
    chosen: list[tuple[Row, Judged, tuple[int, ...]]] = []
    for row, judged in zip(sampled.rows, sampled.judged, strict=True):
        ends = tuple(step_ends(row.token_ids, policy.text))
        if ends and judged.formatted and (row.query, row.text) not in seen:
            seen.add((row.query, row.text))
            chosen.append((row, judged, ends))
    scores = prm.scores(
        [
            StepExample(
                policy.prompt_ids(question_text(by_hash[row.query]), True),
                row.token_ids, ends, (), study.pixels[by_hash[row.query].images[0]],
            )
            for row, _, ends in chosen
        ]
    )  # fmt: skip
    steps: dict[bool, list[float]] = {True: [], False: []}
    for (_, judged, _), scores_S in zip(chosen, scores, strict=True):
        first = judged.verdict.first_false
        for step, score in enumerate(scores_S):
            if first is None or step <= first:
                steps[step != first].append(score)
    table: dict[str, Any] = {"auc_step": auc(steps[True], steps[False])}
    for how in AGGREGATES:
        rows = [
            Scored(
                row.query, by_hash[row.query].images[0], row.sample_index, judged.correct, scores_S,
                reward_p(scores_S, how), (None,) * len(scores_S), judged.true,
            )
            for (row, judged, _), scores_S in zip(chosen, scores, strict=True)
        ]  # fmt: skip
        choice = closed(rows, seed=0)
        table[how] = {"auc_within": within_auc(rows, seed=0), "closed": choice["closed"],
                      "random": choice["random"], "top": choice["top"]}  # fmt: skip
    return table


def run(study: Study, policy: PlainPolicy, sizes: Sizes, record: Any) -> None:
    """Sample, label, train and measure."""
    queries = study.split("train")[: sizes.queries]
    by_hash = {query.content_hash: query for query in queries}
    sampled = sample(study, policy, queries, sizes.samples)
    responses, counts = pick(
        sampled.rows, [one.outcome for one in sampled.judged], [""] * len(sampled.rows),
        decode=policy.text, take=Take(pairs=sizes.pairs), held_out=(), seed=study.seed,
    )  # fmt: skip
    study.say(f"{counts}; {cost(responses, sizes.completions)}")
    found = annotate(study, policy, by_hash, responses, sizes)
    valued = [step_values(one, found, early_stop=sizes.early_stop) for one in responses]
    truths = [truth_of(study, policy, by_hash[one.query], one.token_ids_T) for one in responses]
    record("labels", label_quality(responses, valued, truths) | {"counts": counts.to_dict()})
    chosen = sample(study, policy, study.split("validation")[: sizes.held_out], sizes.choice)
    study.say(f"{len(chosen.rows)} samples to choose from")
    told = [place for place, values in enumerate(valued) if values is not None]
    responses = [responses[place] for place in told]
    kinds: dict[str, list[list[float]]] = {
        kind: [[target(v, kind) for v in values[0]] for values in valued if values is not None]
        for kind in LABELS
    }
    kinds |= {"truth": [truths[place] for place in told], "surprise": kinds["soft"]}
    for name, targets in kinds.items():
        head = name == "surprise"
        prm = PlainPrm(policy, ("model.*",), surprise=True) if head else PlainPrm(policy)
        rows = examples(study, policy, by_hash, responses, targets)
        loss = train_prm(
            prm, rows, lr=sizes.head_lr if head else sizes.lr,
            epochs=sizes.head_epochs if head else sizes.epochs, batch=sizes.batch, seed=study.seed,
        )  # fmt: skip
        record(name, {"loss": loss} | measure(study, policy, prm, chosen))
    likely = PlainPrm(policy, surprise=True)
    torch.nn.init.ones_(likely.model.score.surprise)
    record("likely", measure(study, policy, likely, chosen))


def label_quality(
    responses: Sequence[Labelled],
    valued: Sequence[tuple[tuple[float, ...], tuple[int, ...]] | None],
    truths: Sequence[Sequence[float]],
) -> dict[str, Any]:
    """Of measured steps up to the first false one: AUC of the value against the checker's truth."""
    split: dict[bool, list[float]] = {True: [], False: []}
    steps = 0
    for values, truth in zip(valued, truths, strict=True):
        if values is None or len(truth) != len(values[0]):
            continue
        steps += sum(graded > 0 for graded in values[1])
        until = [*truth, 0.0].index(0.0) + 1
        for value, graded, right in list(zip(*values, truth, strict=True))[:until]:
            if graded:
                split[right > 0].append(value)
    return {
        "responses": len(responses),
        "steps": steps,
        "auc": auc(split[True], split[False]),
        "true": float(np.mean(split[True])),
        "first_false": float(np.mean(split[False])),
    }


def main(
    *,
    warmup: Annotated[Path, typer.Option(help="Warm-up policy folder.")],
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("out/prm-study"),
    queries: Annotated[int, typer.Option(help="Questions that are labelled.")] = Sizes.queries,
    held_out: Annotated[int, typer.Option(help="Questions measured on.")] = Sizes.held_out,
    pairs: Annotated[int, typer.Option(help="Right and wrong responses each.")] = Sizes.pairs,
    epochs: Annotated[int, typer.Option(help="Of PRM training.")] = Sizes.epochs,
    early_stop: Annotated[bool, typer.Option(help="Stop at a step of value 0.")] = True,
    seed: int = 0,
) -> None:
    """Measure the PRM; each part's results go to `<out>/<part>.json`."""
    out.mkdir(parents=True, exist_ok=True)
    study = Study(build(0, SIZES), seed, replace(StudySettings()))
    sizes = Sizes(
        queries=queries, held_out=held_out, pairs=pairs, epochs=epochs, early_stop=early_stop
    )

    def record(name: str, value: Any) -> None:
        facts = {"seed": seed, "sizes": asdict(sizes), name: plain(value)}
        (out / f"{name}.json").write_text(json.dumps(facts, indent=1) + "\n")
        study.say(f"{name}: {json.dumps(facts[name])}")

    run(study, PlainPolicy.load(warmup), sizes, record)


if __name__ == "__main__":
    typer.run(main)
