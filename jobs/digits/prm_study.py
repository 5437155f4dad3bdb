"""Can a process reward model work on `digits`? Labels, training and choice, in miniature.

    python -m jobs.digits.prm_study --policy WARMUP --out out/prm-study

The loop's engine, trainer and scorer in one process, without Ray and driver. Samples a warm-up
policy, labels steps by Monte-Carlo completions, trains a PRM, and measures on validation questions,
with the process checker, what the loop will depend on: AUC within a question between true and
false-positive responses, and how much of the way from random to oracle its Top-2 goes.

PRMs: trained as a whole on soft and on hard labels, and on soft ones with a head that also sees how
likely the model finds the response; on the checker's truth, which says whether labels or capacity
are the limit (an oracle, here only); the head alone with that likelihood; and the likelihood alone,
untrained. Beside each, on the same responses, what costs nothing: the log-likelihood that every
rollout is stored with.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from actors.model.value_head import LIKELIHOOD_KEY, write_headed
from actors.scoring.transformers_scorer import TransformersScorer
from actors.training.trainer import Trainer, join_group
from jobs.digits.base_model import MAX_POSITIONS
from jobs.digits.study import Study, record
from pipeline.metrics.auc import auc
from pipeline.metrics.intervals import Estimate, bootstrap_by_group
from pipeline.metrics.votes import ranked
from pipeline.prm.gate import (
    LEAST_CHOICE,
    Scored,
    auc_of_both,
    by_query,
    closed,
    within_auc,
)
from pipeline.prm.labels import (
    Labelled,
    Prefix,
    Reached,
    Stop,
    Take,
    cost,
    next_prefixes,
    pick,
    step_values,
    target,
)
from pipeline.prm.step_scores import ScoreRequest, Scores
from pipeline.prompts import prompt_hash
from pipeline.query import Query
from pipeline.records import Rollout
from pipeline.responses import step_ends
from pipeline.selection.rewards import Aggregate, reward_p
from pipeline.tasks.digits.measure import Judged
from pipeline.training.rows import TrainRow
from pipeline.training.settings import LearnSettings

AGGREGATES: tuple[Aggregate, ...] = ("min", "mean", "product", "last")

SAMPLES, COMPLETIONS, CHOICE = 8, 8, 16

BATCH = 32


@dataclass(frozen=True)
class Sampled:
    """A response, judged by the checker."""

    query: Query
    row: Rollout
    judged: Judged


@dataclass(frozen=True)
class Variant:
    """A PRM and how it is trained. likelihood: its head sees the log-likelihood, too."""

    likelihood: bool = False
    frozen: tuple[str, ...] = ("*vision*",)
    learning_rate: float = 5e-4
    epochs: int = 6


WHOLE, BOTH, HEAD_ALONE = Variant(), Variant(True), Variant(True, ("model.*",), 1e-2, 4)


def sample(study: Study, queries: Sequence[Query], k: int) -> list[Sampled]:
    """K samples of each query at T = 1, as rollouts."""
    found = []
    for query, samples in zip(queries, study.sample(queries, k, 1.0), strict=True):
        for index, one in enumerate(samples):
            row = Rollout(
                query=query.content_hash,
                query_id=query.query_id,
                sample_index=index,
                seed=index,
                policy="study",
                temperature=1.0,
                top_p=1.0,
                prompt_sha256=prompt_hash(one.prompt_token_ids_P),
                prompt_tokens=len(one.prompt_token_ids_P),
                token_ids=one.token_ids_T,
                logprobs=one.logprobs_T,
                text=one.text,
                finish=one.finish,
            )
            found.append(Sampled(query, row, study.judge(query, one)))
    return found


def annotate(
    study: Study, queries: dict[str, Query], responses: list[Labelled], *, stop: Stop
) -> dict[Prefix, Reached]:
    """Completions of every prefix, in rounds."""
    found: dict[Prefix, Reached] = {}
    while wanted := next_prefixes(responses, found, stop=stop):
        starts = [(queries[prefix.query], prefix.token_ids_T) for prefix in wanted]
        for prefix, samples in zip(wanted, study.complete(starts, COMPLETIONS), strict=True):
            query = queries[prefix.query]
            right = sum(study.judge(query, one).correct for one in samples)
            found[prefix] = Reached(right, COMPLETIONS)
        study.say(f"{len(wanted)} prefixes completed")
    return found


def train(
    study: Study,
    policy: Path,
    folder: Path,
    labelled: Sequence[tuple[Query, Labelled, Sequence[float]]],
    variant: Variant,
) -> Path:
    """The folder of a PRM trained on these responses and step targets by the learner's trainer."""
    rows = [
        TrainRow(
            study.prompt(query),
            query.images,
            response.prompt_tokens,
            response.prompt_sha256,
            # One token more than the last step, which is predicted and never read.
            response.token_ids_T[: response.step_ends_S[-1] + 1],
            response.step_ends_S,
            tuple(targets_S),
        )
        for query, response, targets_S in labelled
    ]
    settings = LearnSettings(
        learning_rate=variant.learning_rate,
        batch_size=BATCH,
        schedule="linear",
        schedule_rise=10,
        schedule_steps=variant.epochs * -(-len(rows) // BATCH),
        precision="float32",
        objective="steps",
        frozen=variant.frozen,
        seed=study.seed,
    )
    start = write_headed(policy, folder / "start", likelihood=variant.likelihood)
    trainer = Trainer(settings, start, study.images.__getitem__)
    for epoch in range(variant.epochs):
        trainer.train(rows, study.seed + epoch)
    trainer.publish(folder / "prm")
    trainer.close()
    return folder / "prm"


def measure(study: Study, prm: Path, responses: Sequence[Sampled]) -> dict[str, Any]:
    """Within-question AUC and `closed` by the checker's truth, for every way to aggregate."""
    chosen = list(_scorable(study, responses))
    scorer = TransformersScorer(study.images.__getitem__, max_model_len=MAX_POSITIONS)
    scorer.load_policy(prm)
    answers = scorer.score([request for _, request in chosen])
    scored = [
        (one, scores_S)
        for (one, _), scores_S in zip(chosen, answers, strict=True)
        if not isinstance(scores_S, str)
    ]
    steps: dict[bool, list[float]] = {True: [], False: []}
    for one, scores_S in scored:
        first = one.judged.verdict.first_false
        for step, score in enumerate(scores_S):
            if first is None or step <= first:
                steps[step != first].append(score)
    table: dict[str, Any] = {"auc_step": auc(steps[True], steps[False])}
    free = [_free_row(one, scores_S) for one, scores_S in scored]
    table["logprob"] = choice_of(free)
    for how in AGGREGATES:
        rows = [_gate_row(one, scores_S, how) for one, scores_S in scored]
        table[how] = choice_of(rows) | {"minus_logprob": paired(rows, free)}
    return table


def choice_of(rows: Sequence[Scored]) -> dict[str, Any]:
    """What Top-2 by these rewards is worth."""
    choice = closed(rows, seed=0)
    kept = {name: choice[name] for name in ("closed", "random", "top", "oracle")}
    return {"auc_within": within_auc(rows, seed=0), **kept}


def paired(rows: Sequence[Scored], others: Sequence[Scored]) -> dict[str, Estimate | None]:
    """`rows` minus `others`, two rewards of the same responses, question by question: the AUC
    between true and false-positive correct responses, and the share of wrong processes in Top-2."""
    found: dict[str, list[tuple[float, Hashable]]] = {"auc_within": [], "top": []}
    for mine, theirs in zip(by_query(rows), by_query(others), strict=True):
        sides = [[one for one in side if one.correct] for side in (mine, theirs)]
        aucs = [_auc_of(side) for side in sides]
        if aucs[0] is not None and aucs[1] is not None:
            found["auc_within"].append((aucs[0] - aucs[1], mine[0].group))
        if len(sides[0]) >= LEAST_CHOICE:
            top = [_wrong_in_top(side) for side in sides]
            found["top"].append((top[0] - top[1], mine[0].group))
    return {
        name: bootstrap_by_group(*zip(*values, strict=True), seed=0, bounds=(-1.0, 1.0))
        if values
        else None
        for name, values in found.items()
    }


def _auc_of(correct: Sequence[Scored]) -> float | None:
    return auc_of_both(
        [one.reward for one in correct if one.process_right],
        [one.reward for one in correct if not one.process_right],
    )


def _wrong_in_top(correct: Sequence[Scored], k: int = 2) -> float:
    rows = sorted(correct, key=lambda one: one.sample_index)
    order = ranked([one.reward for one in rows])[:k]
    return sum(not rows[i].process_right for i in order) / k


def _scorable(study: Study, responses: Sequence[Sampled]) -> Iterator[tuple[Sampled, ScoreRequest]]:
    """Distinct well-formed responses with finished steps, and what is asked about them."""
    seen: set[tuple[str, str]] = set()
    for one in responses:
        row, text = one.row, (one.row.query, one.row.text)
        ends = tuple(step_ends(row.token_ids, study.processor.decode))
        if ends and one.judged.formatted and text not in seen:
            seen.add(text)
            yield one, ScoreRequest(study.prompt(one.query), one.query.images, row.token_ids, ends)


def _gate_row(one: Sampled, scores_S: Scores, how: Aggregate) -> Scored:
    return Scored(
        query=one.row.query,
        group=one.query.images[0],
        sample_index=one.row.sample_index,
        correct=one.judged.correct,
        scores_S=scores_S,
        reward=reward_p(scores_S, how),
        values_S=(None,) * len(scores_S),
        process_right=one.judged.true,
    )


def _free_row(one: Sampled, scores_S: Scores) -> Scored:
    return replace(_gate_row(one, scores_S, "min"), reward=sum(one.row.logprobs))


def label_quality(values: Sequence[tuple[tuple[float, ...], tuple[int, ...]]],
                  truths: Sequence[Sequence[float]]) -> dict[str, Any]:  # fmt: skip
    """Of measured steps up to the first false one: AUC of the value against the checker's truth."""
    split: dict[bool, list[float]] = {True: [], False: []}
    for (values_S, graded_S), truth_S in zip(values, truths, strict=True):
        until = [*truth_S, 0.0].index(0.0) + 1
        for value, graded, truth in list(zip(values_S, graded_S, truth_S, strict=False))[:until]:
            if graded:
                split[truth > 0].append(value)
    return {
        "responses": len(values),
        "steps": sum(graded > 0 for _, graded_S in values for graded in graded_S),
        "auc": auc(split[True], split[False]),
        "true": float(np.mean(split[True])),
        "first_false": float(np.mean(split[False])),
    }


def truth_of(judged: Judged) -> list[float]:
    """1 up to the first step that does not hold, 0 from there on: the checker's labels."""
    first = judged.verdict.first_false
    return [float(first is None or step < first) for step in range(len(judged.verdict.steps_S))]


Steps = Sequence[float]
"""A number for each step of a response."""

Label = tuple[Query, Labelled, Steps, Steps]
"""A query, a response to it, the measured values of its steps, and the checker's truth."""

TARGETS: dict[str, tuple[Variant, Callable[[Steps, Steps], Steps]]] = {
    "soft": (WHOLE, lambda values_S, truth_S: values_S),
    "both": (BOTH, lambda values_S, truth_S: values_S),
    "hard": (WHOLE, lambda values_S, truth_S: [target(value, "hard") for value in values_S]),
    "truth": (WHOLE, lambda values_S, truth_S: truth_S),
    "likelihood": (HEAD_ALONE, lambda values_S, truth_S: values_S),
}
"""The PRMs that are trained: how, and what each step of a response is to be given."""


def label(
    study: Study, out: Path, pool: Sequence[Query], *, pairs: int, early_stop: bool
) -> list[Label]:
    """The responses whose steps could be measured; how good these labels are is recorded."""
    by_hash = {query.content_hash: query for query in pool}
    sampled = sample(study, pool, SAMPLES)
    judged = {(one.row.query, one.row.sample_index): one.judged for one in sampled}
    responses, counts = pick(
        [one.row for one in sampled],
        [one.judged.outcome for one in sampled],
        [""] * len(sampled),
        decode=study.processor.decode,
        take=Take(pairs=pairs),
        held_out=(),
        seed=study.seed,
    )
    study.say(f"{counts}; {cost(responses, COMPLETIONS)}")
    stop: Stop = "wrong" if early_stop else "never"
    reached = annotate(study, by_hash, responses, stop=stop)
    valued = [(one, step_values(one, reached, stop=stop)) for one in responses]
    measured = [(one, values) for one, values in valued if values is not None]
    truths = [truth_of(judged[one.query, one.sample_index]) for one, _ in measured]
    quality = label_quality([values for _, values in measured], truths)
    record(study, out, "labels", quality | {"counts": counts.to_dict()})
    return [
        (by_hash[one.query], one, values_S, truth_S)
        for (one, (values_S, _)), truth_S in zip(measured, truths, strict=True)
    ]


def run(
    study: Study,
    out: Path,
    labels: Sequence[Label],
    chosen: Sequence[Sampled],
    *,
    policy: Path,
    start: Path,
) -> None:
    """Train on the labels, from `start`, and measure on the responses that were chosen for it."""
    study.engine.close()  # and with it the process group of its own
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        join_group(0, 1, f"file://{scratch}/group")
        for name, (variant, targets_of) in TARGETS.items():
            targets = [(query, one, targets_of(*of_steps)) for query, one, *of_steps in labels]
            labelled = [row for row in targets if len(row[2]) == len(row[1].step_ends_S)]
            prm = train(study, start, scratch / name, labelled, variant)
            record(study, out, name, measure(study, prm, chosen))
        prm = write_headed(policy, scratch / "likely", likelihood=True)
        config = json.loads((prm / "config.json").read_text("utf-8"))
        (prm / "config.json").write_text(json.dumps({**config, LIKELIHOOD_KEY: 1.0}), "utf-8")
        record(study, out, "likely", measure(study, prm, chosen))


def main(
    *,
    policy: Annotated[Path, typer.Option(help="Warm-up policy folder.")],
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("out/prm-study"),
    queries: Annotated[int, typer.Option(help="Questions that are labelled.")] = 400,
    held_out: Annotated[int, typer.Option(help="Questions measured on.")] = 120,
    pairs: Annotated[int, typer.Option(help="Correct and wrong responses each.")] = 2,
    early_stop: Annotated[bool, typer.Option(help="Stop at a step of value 0.")] = True,
    start: Annotated[Path | None, typer.Option(help="PRMs begin as this, not the policy.")] = None,
    seed: int = 0,
) -> None:
    """Measure what a PRM of this policy is worth; each part's figures go to `<out>/<part>.json`."""
    out.mkdir(parents=True, exist_ok=True)
    study = Study(policy, seed)
    pool = study.split("train")[:queries]
    labels = label(study, out, pool, pairs=pairs, early_stop=early_stop)
    chosen = sample(study, study.split("validation")[:held_out], CHOICE)
    run(study, out, labels, chosen, policy=policy, start=start or policy)


if __name__ == "__main__":
    typer.run(main)
