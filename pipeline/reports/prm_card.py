"""The model card of a process reward model: what it was made from, and what its gate measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.refs import PolicyRef
from pipeline.reports.card import front_matter, sha256_of
from pipeline.run.spec import RunSpec
from pipeline.run.state import State

NAME = "prm"

FIGURES = {
    "auc_step": "step AUC",
    "auc_within": "step AUC within a question",
    "auc_answer": "answer AUC",
}

USE = """\
The folder is the policy's model with one more tensor, a value head of one output, and is served as
a pooling model (`runner="pooling"`, `convert="classify"`). A step's score is the sigmoid of the
logit at its last token; the steps of a response end in blank lines; a response's reward is the
`{aggregate}` of its steps. It was trained to score responses of this run's warm-up policy to
questions like those it was labelled on, and nothing else is known of it."""


def prm_card(state: State, spec: RunSpec) -> str:
    """The card of the process reward model of a run.

    Raises:
        KeyError: the run has none.
    """
    lines = [
        *front_matter(spec),
        f"# {spec.config.run.name}: process reward model",
        "",
        *_origin(state.policies[NAME], state, spec),
        "",
        "## What its gate measured",
        "",
        *_measured(state.prm),
        "",
        "## Use",
        "",
        USE.format(aggregate=spec.config.prm.aggregate),
    ]
    return "\n".join(lines) + "\n"


def _origin(prm: PolicyRef, state: State, spec: RunSpec) -> Iterator[str]:
    config = spec.config
    yield f"The process reward model of run `{config.run.name}`."
    yield ""
    if config.prm.path is not None:
        yield f"* taken as it was from `{config.prm.path}`"
    elif state.labels is not None:
        counts, cost = state.labels["counts"], state.labels["cost"]
        yield (
            f"* trained from the warm-up policy ({state.policies['warmup'].version}) on "
            f"Monte-Carlo values of {state.labels['trained']} responses to {counts['mixed']} "
            f"questions: {cost['rollouts']} completions, {config.prm.completions} a step "
            "(paper section 3)"
        )
    yield f"* settings {state.config_hash}, seed {config.run.seed}"
    yield f"* version: {prm.version}; sha256 over its files in the store: {sha256_of(prm)}"


def _measured(judged: Mapping[str, Any] | None) -> Iterator[str]:
    if judged is None:
        yield "It was not judged: a ready one is used as it is."
        return
    used = "passes the gate and is used" if judged["used"] else "is not used"
    yield f"On questions that were set aside by image, it {used}."
    yield from (f"* {reason}" for reason in judged["reasons"])
    yield from ("", "| figure | value [95 %] | n |", "|---|---|---|")
    for key, words in FIGURES.items():
        found = judged["card"].get(key)
        if found is not None and found.get("value") is not None:
            yield f"| {words} | {found['value']:.2f} {_interval(found['ci95'])} | {found['n']} |"


def _interval(ci95: Any) -> str:
    return "" if ci95 is None else f"[{ci95[0]:.2f}, {ci95[1]:.2f}]"
