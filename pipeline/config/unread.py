"""Settings that were given and that nothing reads, under the other settings of the same run."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.config.schema import Config, Dynamics, Explore, Prm, Warmup
from pipeline.config.selecting import SCORED

_OF_A_READY_PRM = {
    "path",
    "kind",
    "tag",
    "good",
    "bad",
    "aggregate",
    "scoring",
    "engine",
    "scorers",
}

Rule = tuple[str, str, set[str]]
"""Why, and which keys of which section are not read."""


def unread(config: Config) -> list[str]:
    """One line for each reason why settings that were given are not read."""
    lines = []
    for why, name, keys in _rules(config):
        section = getattr(config, name)
        given = sorted(section.model_fields_set & keys)
        if given:
            named = ", ".join(f"{name}.{key}" for key in given)
            lines.append(f"nothing reads {named}: {why}")
    return lines


def _rules(config: Config) -> Iterator[Rule]:
    yield from _prm_rules(config)
    yield from _selection_rules(config)
    learn, evaluate, evolve = config.learn, config.evaluate, config.evolve
    if config.warmup.checkpoint is not None:
        rest = set(Warmup.model_fields) - {"checkpoint"}
        yield "warmup.checkpoint is a ready warm-up", "warmup", rest
    if evolve.iterations == 0:
        yield "evolve.iterations = 0", "evolve", {"interval", "epochs", "final", "control"}
    if learn.schedule == "constant":
        yield "learn.schedule = constant", "learn", {"schedule_share"}
    yield from _exploration_rules(config)
    if evaluate.samples == evaluate.test_samples == 0:
        yield "only greedy answers are evaluated", "evaluate", {"temperature"}
    if config.cluster.address is None:
        keys = {"most_cpus", "most_gpus", "turn_s"}
        yield "a private Ray has this machine, and room for every role", "cluster", keys
    if config.cluster.gpus_per_engine == 0:
        yield "engines use no GPU", "generate", {"gpu_memory_utilization"}
    else:
        yield "engines are on GPUs", "generate", {"kv_cache_gib"}


def _exploration_rules(config: Config) -> Iterator[Rule]:
    explore, dynamics = config.explore, config.dynamics
    if not explore.every:
        yield "explore.every = 0 searches nothing", "explore", set(Explore.model_fields) - {"every"}
    elif explore.mode == "argmax":
        yield "explore.mode = argmax takes the highest figure", "explore", {"gain"}
    if not dynamics.every:
        rest = set(Dynamics.model_fields) - {"every"}
        yield "dynamics.every = 0 evaluates nothing", "dynamics", rest


def _selection_rules(config: Config) -> Iterator[Rule]:
    select, unlabelled = config.select, config.unlabelled
    if config.evolve.method == "sft":
        keys = {"rule", "by", "otherwise", "k", "threshold"}
        yield "evolve.method = sft selects from no responses", "select", keys
    if unlabelled.use != "pseudo":
        keys = {"vote", "least_share"} | (
            {"mix_in", "queries"} if unlabelled.use == "none" else set()
        )
        yield f"unlabelled.use = {unlabelled.use}", "unlabelled", keys
    if unlabelled.use == "none":
        yield "unlabelled.use = none leaves unlabelled queries out", "data", {"unlabelled"}
    if select.rule not in SCORED:
        yield f"select.rule = {select.rule} ranks nothing", "select", {"by", "otherwise"}
    elif select.by != "prm":
        yield f"select.by = {select.by} needs no other", "select", {"otherwise"}
    if select.rule in ("all_correct", "threshold"):
        yield f"select.rule = {select.rule} has no k", "select", {"k"}
    if select.rule != "threshold":
        yield f"select.rule = {select.rule} has no threshold", "select", {"threshold"}


def _prm_rules(config: Config) -> Iterator[Rule]:
    prm, every = config.prm, set(Prm.model_fields)
    if config.select.reward != "prm":
        yield "select.reward = binary uses no process reward model", "prm", every
        return
    if prm.path is not None:
        yield "prm.path is a ready one, and none is built", "prm", every - _OF_A_READY_PRM
    if prm.kind == "head":
        yield "prm.kind = head has no tag", "prm", {"tag", "good", "bad"}
