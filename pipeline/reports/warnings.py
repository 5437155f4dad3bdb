"""Warnings where a run's figures mean little: pure functions of what the run is and has done.

Each is one line that names the split, policy or phase, the figure, and what would mend it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipeline.metrics.intervals import Z_95, wilson
from pipeline.query import Query
from pipeline.reports.comparison import named_policies
from pipeline.reports.exploration.text import saturation_notices
from pipeline.run.spec import RunSpec
from pipeline.run.state import GREEDY, State

WIDE = 0.2
"""Width of a 95 % interval, as a share, above which a split is called too small."""

HANDFUL = 32
"""Responses below which training is called training on a handful."""


def data_warnings(spec: RunSpec) -> list[str]:
    """What the data alone says of a run's figures, before it starts."""
    splits = {name: spec.splits[name] for name in (spec.config.data.validation, *spec.test_splits)}
    warnings = [line for name, part in splits.items() for line in _few_questions(name, len(part))]
    warnings += [line for name, part in splits.items() for line in _one_answer(name, part)]
    if not spec.test_splits:
        warnings.append(
            "the data has no test split: figures on validation, by which policies are chosen, are "
            "too good"
        )
    return warnings


def _few_questions(split: str, n: int) -> Iterator[str]:
    low, high = wilson(n // 2, n)
    if high - low > WIDE:
        enough = math.ceil((Z_95 / WIDE) ** 2 - Z_95**2)
        yield (
            f"{split} has {n} questions: a 95 % interval is up to {100 * (high - low):.0f} points "
            f"wide, and smaller differences are chance; {enough} questions give {100 * WIDE:.0f}"
        )


def _one_answer(split: str, queries: Sequence[Query]) -> Iterator[str]:
    """Families of free questions of which a constant answer is always correct."""
    answers: dict[str, list[str | None]] = {}
    for query in queries:
        if not query.choices and query.answer_type != "yes_no":
            answers.setdefault(query.source, []).append(query.answer)
    single = [name for name, golds in answers.items() if len(set(golds)) == 1]
    if single:
        yield (
            f"{split}: all questions of {', '.join(map(repr, sorted(single)))} have one answer, so "
            "chance is 100 % there and accuracy says nothing"
        )


def sampling_warnings(phase: str, counts: Mapping[str, int]) -> list[str]:
    """What is wrong with the responses that a phase sampled to train on."""
    samples = max(1, counts["samples"])
    warnings = []
    if counts["unparsed"] > samples / 2:
        warnings.append(
            f"{phase}: {100 * counts['unparsed'] / samples:.0f} % of {samples} responses have no "
            "readable answer (one paragraph after the line '# Answer')"
        )
    if counts["correct"] == 0:
        warnings.append(f"{phase}: not one of {samples} responses is correct")
    elif 0 < counts["kept"] < HANDFUL:
        warnings.append(
            f"{phase}: {counts['kept']} responses to train on are a handful: what changes is "
            "mostly chance"
        )
    return warnings


def run_warnings(state: State, spec: RunSpec) -> list[str]:
    """Everything that a reader of a finished run's figures has to know."""
    warnings = data_warnings(spec)
    for phase, closed in state.closed.items():
        if phase == "warmup" or phase.startswith(("evolve/", "unlabelled/")):
            warnings += sampling_warnings(phase, closed["coverage"])
    for name, policy in named_policies(state).items():
        for split in spec.test_splits:
            result = state.evaluation(policy, split, GREEDY)
            if result is not None and name != "base":
                warnings += _result_warnings(name, split, result)
    warnings += saturation_notices(state)
    best = spec.config.evolve.final == "best"
    if best and state.finished is not None and state.finished["final"] == "warmup":
        warnings.append(
            "no iteration was better on validation than the warm-up, so `final` is that policy"
        )
    return warnings


def evaluation_warnings(
    name: str, split: str, queries: Sequence[Query], result: Mapping[str, Any]
) -> list[str]:
    """What a reader of one evaluation has to know. result: the greedy figures."""
    about_data = [*_few_questions(split, len(queries)), *_one_answer(split, queries)]
    return [*about_data, *_result_warnings(name, split, result)]


def _result_warnings(name: str, split: str, result: Mapping[str, Any]) -> Iterator[str]:
    if result["greedy"] == 0:
        yield f"{name} answers none of the {result['n']} questions of {split} correctly"
    if result["unparsed"] > 0.5:
        yield (
            f"{name} on {split}: {100 * result['unparsed']:.0f} % of its answers cannot be read "
            "(no line '# Answer' with one paragraph after it)"
        )
