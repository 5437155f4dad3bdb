"""What a run's Monte-Carlo labels can tell: the gate's figures for a PRM that *is* the checker.

A gate that measures by noisy labels cannot ask for more than this. What always holds: all labelled
responses count, the held-out ones and the others, for nothing is trained here; intervals resample
questions by the images they share.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from statistics import fmean
from typing import Any

from pipeline.metrics.accuracy import image_groups
from pipeline.metrics.intervals import as_json
from pipeline.prm.gate import Scored, right_by_labels, step_auc, within_auc
from pipeline.records import Rollout, StepValues
from pipeline.reports.seeds import Finished
from pipeline.storage.artifacts import read_rows
from pipeline.tasks.digits.build import Truth
from pipeline.tasks.digits.checker import Verdict, check


def ceiling(run: Finished, truth: Mapping[str, Truth]) -> dict[str, Any] | None:
    """The figures of `ceilings` for the labels of a run; None for a run without labels.

    truth: by query id. Raises: ArtifactLost: an object is corrupt or gone.
    """
    if run.state.labels is None:
        return None
    labels: list[StepValues] = read_rows(run.store, run.state.labels["path"], StepValues)
    texts: dict[tuple[str, int], str] = {}
    for path in sorted({label.rollout_shard for label in labels}):
        for row in read_rows(run.store, path, Rollout):
            texts[row.query, row.sample_index] = row.text
    verdicts = []
    for label in labels:
        known = truth[label.query_id]
        text = texts[label.query, label.sample_index]
        verdicts.append(check(text, known.question, known.scene))
    groups = image_groups([run.spec.by_hash[label.query] for label in labels])
    found: dict[str, Any] = as_json(ceilings(labels, verdicts, groups))
    return found


def ceilings(
    labels: Sequence[StepValues], verdicts: Sequence[Verdict], groups: Sequence[Hashable]
) -> dict[str, Any]:
    """By the labels: how well the checker, and how well the question alone, tells steps apart.

    checker_step: step AUC of scores that are 1 up to the first step that does not hold and 0 from
    there on. checker_within: AUC within a question of 1 for true and 0 for false positives.
    question_step: step AUC of the mean label of the question's *other* responses, which knows
    nothing of the step. Responses whose steps the checker counts otherwise are left out.
    """
    means = _means_of_others(labels)
    checker, question = [], []
    for place, (label, verdict) in enumerate(zip(labels, verdicts, strict=True)):
        steps = len(label.values)
        if len(verdict.steps_S) != steps:
            continue
        holds = steps if verdict.first_false is None else verdict.first_false
        scores = (1.0,) * holds + (0.0,) * (steps - holds)
        checker.append(_scored(label, groups[place], scores, float(verdict.process_true)))
        mean = means[place]
        if mean is not None:
            question.append(_scored(label, groups[place], (mean,) * steps, mean))
    return {
        "responses": len(checker),
        "checker_step": step_auc(checker, seed=0),
        "checker_within": within_auc(checker, seed=0),
        "question_step": step_auc(question, seed=0),
    }


def _scored(
    label: StepValues, group: Hashable, scores_S: tuple[float, ...], reward: float
) -> Scored:
    values_S = tuple(
        value if graded else None
        for value, graded in zip(label.values, label.completions, strict=True)
    )
    return Scored(
        label.query, group, label.sample_index, label.correct, scores_S, reward, values_S,
        right_by_labels(label.values),
    )  # fmt: skip


def _means_of_others(labels: Sequence[StepValues]) -> list[float | None]:
    """For each response the mean label of the other responses to its question, if there are any."""
    of_query: dict[str, list[int]] = defaultdict(list)
    for place, label in enumerate(labels):
        of_query[label.query].append(place)
    return [
        fmean(v for other in others for v in labels[other].values) if others else None
        for place, label in enumerate(labels)
        for others in [[one for one in of_query[label.query] if one != place]]
    ]
