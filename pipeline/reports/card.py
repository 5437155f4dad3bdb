"""Model cards: what a policy or a process reward model was made from, and how good it is.

A pure function of what the run is and has done, without time or anybody's paths, so equal work
gives equal cards; where a policy stands in its run's ledger is told by whoever exports it. A card
belongs to an exported folder (`README.md`) and to `<out>/<run>/cards/`; the policy in the store
keeps the bytes of the folder that it was trained from, since they are part of its hash.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from pipeline.refs import PolicyRef
from pipeline.reports.comparison import named_policies
from pipeline.reports.tables import decimals, interval, percent
from pipeline.reports.warnings import run_warnings
from pipeline.run.spec import RunSpec
from pipeline.run.state import GREEDY, State

PRM = "prm"
"""The name of a run's process reward model among its policies."""

CHAINS = {"warmup": ("warmup",), "evolve": ("warmup", "evolve"), "control": ("warmup", "control")}
"""The chains of jobs that a policy of each chain was trained by, in order."""


def model_card(name: str, state: State, spec: RunSpec, entry: str | None = None) -> str:
    """The card of policy `name` of a run ("warmup", "evolve/3", or "final" and "control").

    entry: the entry of the run's ledger that it was published by, as a path of the store.

    Raises:
        KeyError: the run has no such policy.
    """
    policy = (state.policies | named_policies(state))[name]
    lines = [
        *front_matter(spec),
        f"# {spec.config.run.name}: {name}",
        "",
        *_origin(name, policy, state, spec),
        *_place(entry),
        "",
        *_results(policy, state, spec),
        "",
        *_warnings(state, spec),
        *_training(name, state, spec),
        "",
        *_use(spec),
    ]
    return "\n".join(lines) + "\n"


def chain_of(name: str, state: State) -> str:
    """The job or phase whose policy `name` is: `final` is `evolve/3`, say."""
    if state.finished is not None and state.finished.get(name) is not None:
        return str(state.finished[name])
    return name


def sha256_of(policy: PolicyRef) -> str:
    """The sha256 over the names and bytes of a policy's files: the end of its path in the store."""
    return policy.path.rpartition("/")[2]


def front_matter(spec: RunSpec) -> Iterator[str]:
    """The metadata that the Hugging Face Hub reads."""
    base = _name(spec.config.policy.path)
    yield from ("---", "library_name: transformers", "pipeline_tag: image-text-to-text")
    yield from (f"base_model: {base}", "tags: [mstar-ray]", "---", "")


_CHOSEN = {
    "best": "the best of the run's policies on the validation split",
    "last": "the one after its last iteration",
}


def _origin(name: str, policy: PolicyRef, state: State, spec: RunSpec) -> Iterator[str]:
    config, where = spec.config, chain_of(name, state)
    same = f" (its policy `{where}`)" if where != name else ""
    chosen = f", {_CHOSEN[config.evolve.final]}" if name == "final" else ""
    yield f"Policy `{name}` of run `{config.run.name}`{same}{chosen}."
    yield ""
    yield f"* made from: `{_name(config.policy.path)}` ({state.policies['base'].version})"
    yield (
        f"* by: self-evolving training, M-STaR (arXiv 2412.17451), with mstar-ray; settings "
        f"{state.config_hash}, seed {config.run.seed}"
    )
    sizes = ", ".join(f"{split} {len(part)}" for split, part in spec.splits.items())
    yield f"* on: `{_name(config.data.path)}`, in questions: {sizes}"
    yield f"* version: {policy.version}; sha256 over its files in the store: {sha256_of(policy)}"


def _place(entry: str | None) -> Iterator[str]:
    if entry is not None:
        yield f"* position in the run's ledger: `{entry}`"


def _name(path: str) -> str:
    """What a model or a data set is called, without the folders that somebody has it in."""
    return PurePosixPath(path).name


def _results(policy: PolicyRef, state: State, spec: RunSpec) -> Iterator[str]:
    yield "## Accuracy"
    yield ""
    rows = []
    for split in (spec.config.data.validation, *spec.test_splits):
        found = state.evaluation(policy, split, GREEDY)
        if found is None:
            continue
        base = state.evaluation(state.policies["base"], split, GREEDY)
        before = "-" if base is None else f"{percent(base['greedy'])} {interval(base['ci95'])}"
        rows.append(
            f"| {split} | {found['n']} | {percent(found['greedy'])} {interval(found['ci95'])} | "
            f"{before} | {percent(found['chance'])} | {percent(found['unparsed'])} |"
        )
    if not rows:
        yield "It was not evaluated."
        return
    chosen = " Policies are chosen by the validation split." * (spec.config.evolve.final == "best")
    yield f"Greedy, in percent, with 95 % intervals.{chosen}"
    yield ""
    yield "| split | questions | this policy | base | chance | answers not readable |"
    yield "|---|---|---|---|---|---|"
    yield from rows


def _warnings(state: State, spec: RunSpec) -> Iterator[str]:
    warnings = run_warnings(state, spec)
    if warnings:
        yield from ("Read these figures with care:", "", *(f"* {line}" for line in warnings), "")


def _training(name: str, state: State, spec: RunSpec) -> Iterator[str]:
    yield "## Training"
    yield ""
    where, config = chain_of(name, state), spec.config
    chain, _, number = where.partition("/")
    last = int(number) if number else None
    reward = "correctness" if config.select.reward == "binary" else "a process reward"
    yield f"On responses of the run's own policies, selected by {reward} (`{config.select.rule}`):"
    yield ""
    yield "| job | responses | tokens | steps | loss (nats a token) |"
    yield "|---|---|---|---|---|"
    for part in CHAINS.get(chain, ()):
        for job, done in state.jobs.items():
            kind, _, place = job.partition("/")
            if kind != part or not done.report:
                continue
            if kind == chain and last is not None and int(place) > last:
                continue
            report = done.report
            yield (
                f"| {job} | {report['rows']} | {report['tokens']} | {done.steps} | "
                f"{report['loss']:.3f} |"
            )


USE = """\
The folder is complete: `AutoModelForImageTextToText.from_pretrained` and
`AutoProcessor.from_pretrained` take it, and so does `vllm serve`. Images are processed with
{backend}, which both have to be told: `use_fast={fast}` for `AutoProcessor`,
`--mm-processor-kwargs '{served}'` for `vllm serve`. The policy is asked as below, in its chat
template with the images first; its steps are paragraphs, and its answer is the paragraph after the
line `# Answer`. Licence and terms are those of the base (`{base}`) and of the data.

```
{asked}
```"""


OWN_CODE = """\
Code that lies in the folder (`*.py`) is part of this model, hashed with it: once you have read it,
load the folder with `trust_remote_code=True` (`vllm serve --trust-remote-code`)."""


def _use(spec: RunSpec) -> Iterator[str]:
    prompt = spec.config.prompt
    system = f"(system) {prompt.system}\n" if prompt.system else ""
    asked = system + prompt.question
    fast = spec.config.policy.image_backend == "torchvision"
    use = USE.format(
        base=_name(spec.config.policy.path),
        asked=asked,
        backend="torchvision" if fast else "PIL",
        fast=fast,
        served=json.dumps({"use_fast": fast}),
    )
    yield from ("## Use", "", use)
    if spec.config.policy.trust_remote_code:
        yield from ("", OWN_CODE)


# --- of a process reward model ------------------------------------------------------------------

FIGURES = {
    "auc_step": "step AUC",
    "auc_within": "step AUC within a question",
    "auc_answer": "answer AUC",
}

PRM_USE = """\
The folder is the policy's model with one more tensor, a value head of one output, and is served as
a pooling model (`vllm serve --runner pooling --convert classify`, task `token_classify`). A step's
score is the sigmoid of the logit at its last token; the steps of a response end in blank lines; a
response's reward is the `{aggregate}` of its steps. It was trained to score responses of this run's
warm-up policy to questions like those it was labelled on, and nothing else is known of it."""


def prm_card(state: State, spec: RunSpec, entry: str | None = None) -> str:
    """The card of the process reward model of a run. entry: as of `model_card`.

    Raises:
        KeyError: the run has none.
    """
    lines = [
        *front_matter(spec),
        f"# {spec.config.run.name}: process reward model",
        "",
        *_prm_origin(state.policies[PRM], state, spec),
        *_place(entry),
        "",
        "## What its gate measured",
        "",
        *_measured(state.prm),
        "",
        "## Use",
        "",
        PRM_USE.format(aggregate=spec.config.prm.aggregate),
    ]
    return "\n".join(lines) + "\n"


def _prm_origin(prm: PolicyRef, state: State, spec: RunSpec) -> Iterator[str]:
    config = spec.config
    yield f"The process reward model of run `{config.run.name}`."
    yield ""
    if config.prm.path is not None:
        yield f"* taken as it was from `{_name(config.prm.path)}`"
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
            yield f"| {words} | {decimals(found['value'], found['ci95'])} | {found['n']} |"
