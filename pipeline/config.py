"""Loading, checking, hashing and comparing configurations; `pipeline.settings` is their manual.

A configuration that this module returns has only known keys and no combination that cannot work.
What depends on the machine or the data is checked by `check_machine` and `check_data` as soon as
those are at hand, and always before anything is started.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from pipeline.canonical import canonical_json, sha256_hex
from pipeline.errors import BadConfig
from pipeline.prompts import check_template
from pipeline.select import SCORED
from pipeline.settings import Config

__all__ = [
    "Change",
    "Config",
    "check",
    "check_data",
    "check_machine",
    "check_resume",
    "config_from_dict",
    "config_hash",
    "diff",
    "load_config",
    "to_dict",
]

RECIPES = Path(__file__).resolve().parent.parent / "jobs" / "recipes"
ResumeKind = Literal["meaning", "noted", "free"]


@dataclass(frozen=True)
class Change:
    """One key that differs between two configurations, and what that means for a resume."""

    key: str
    old: Any
    new: Any
    kind: ResumeKind
    note: str = ""

    def __str__(self) -> str:
        note = f" ({self.note})" if self.note else ""
        return f"{self.key}: {self.old!r} -> {self.new!r}{note}"


def load_config(recipe: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The recipe at a path, or of a name under jobs/recipes, with `a.b=c` overrides applied.

    Raises:
        BadConfig: no such recipe, not YAML, an unknown key, a bad value, an impossible combination.
    """
    path = _recipe_path(recipe)
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadConfig(f"{path}: not a YAML file: {error}") from error
    if raw is None:
        raw = {}
    if not isinstance(raw, dict):
        raise BadConfig(f"{path}: a recipe is a mapping of sections, not a {type(raw).__name__}")
    for override in overrides:
        _apply_override(raw, override)
    return config_from_dict(raw, where=str(path))


def config_from_dict(raw: Mapping[str, Any], where: str = "config") -> Config:
    """A checked configuration from plain nested dictionaries."""
    try:
        config = Config.model_validate(raw)
    except ValidationError as error:
        lines = [_explain(item, where) for item in error.errors()]
        raise BadConfig("\n".join(lines)) from error
    check(config)
    return config


def to_dict(config: Config) -> dict[str, Any]:
    """Plain JSON form, every field spelled out."""
    return config.model_dump(mode="json")


def _recipe_path(recipe: str | Path) -> Path:
    path = Path(recipe)
    if path.is_file():
        return path
    named = RECIPES / f"{recipe}.yaml"
    if path.parent == Path(".") and named.is_file():
        return named
    names = sorted(item.stem for item in RECIPES.glob("*.yaml"))
    raise BadConfig(f"no recipe {str(recipe)!r}: give a YAML file, or one of {', '.join(names)}")


def _apply_override(raw: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise BadConfig(f"--set {override}: write it as section.key=value")
    try:
        value = yaml.safe_load(text) if text.strip() else None
    except yaml.YAMLError as error:
        raise BadConfig(f"--set {override}: the value is not YAML: {error}") from error
    node = raw
    for part in parts[:-1]:
        child = node.get(part)
        if child is None:
            child = node[part] = {}
        if not isinstance(child, dict):
            raise BadConfig(f"--set {override}: {part!r} is a value, not a section")
        node = child
    node[parts[-1]] = value


def _explain(item: Any, where: str) -> str:
    key = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        return f"{where}: unknown key {key!r}{_nearest(key)}"
    if item["type"] == "missing":
        return f"{where}: {key} is needed"
    return f"{where}: {key} = {item['input']!r}: {item['msg']}"


def _nearest(key: str) -> str:
    """The valid key most like `key`: the same name elsewhere, then its own section, then any."""
    known = [name for name, _ in fields()] + list(Config.model_fields)
    section, _, leaf = key.rpartition(".")
    near = [name for name in known if section and name.rpartition(".")[2] == leaf]
    if not near:
        siblings = [name for name in known if name.rpartition(".")[0] == section]
        near = difflib.get_close_matches(key, siblings, n=1, cutoff=0.6)
    if not near:
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
    return f"; did you mean {near[0]!r}?" if near else ""


def fields() -> Iterator[tuple[str, FieldInfo]]:
    """Every leaf of the configuration: dotted key and field."""
    for name, info in Config.model_fields.items():
        section = next(
            kind
            for kind in (info.annotation, *get_args(info.annotation))
            if isinstance(kind, type) and issubclass(kind, BaseModel)
        )
        for leaf, leaf_info in section.model_fields.items():
            yield f"{name}.{leaf}", leaf_info


def _extra(info: FieldInfo) -> dict[str, Any]:
    extra = info.json_schema_extra
    return extra if isinstance(extra, dict) else {}


def _leaf(plain: Mapping[str, Any], key: str) -> Any:
    section, _, leaf = key.partition(".")
    inside = plain[section]
    return None if inside is None else inside[leaf]


def config_hash(config: Config) -> str:
    """16 hex digits over everything that is not free: equal hashes, equal runs but for machines."""
    plain = to_dict(config)
    keyed = {
        key: _leaf(plain, key) for key, info in fields() if _extra(info).get("resume") != "free"
    }
    return sha256_hex(canonical_json(keyed))[:16]


def diff(old: Config, new: Config) -> list[Change]:
    """Every key that differs, in the order of the manual."""
    plain_old, plain_new = to_dict(old), to_dict(new)
    changes = []
    for key, info in fields():
        before, after = _leaf(plain_old, key), _leaf(plain_new, key)
        if before != after:
            extra = _extra(info)
            kind = extra.get("resume", "meaning")
            changes.append(Change(key, before, after, kind, str(extra.get("note", ""))))
    return changes


def check_resume(old: Config, new: Config) -> list[Change]:
    """The changes to say aloud when a run goes on under another configuration.

    Raises:
        BadConfig: a change would make it another run.
    """
    changes = diff(old, new)
    refused = [change for change in changes if change.kind == "meaning"]
    if refused:
        shown = "\n  ".join(str(change) for change in refused)
        raise BadConfig(
            f"run {new.run.name!r} was started with other settings:\n  {shown}\n"
            "set them back, or give the new run a name of its own (--set run.name=...)"
        )
    return [change for change in changes if change.kind == "noted"]


def check(config: Config) -> None:
    """Refuses combinations that cannot work, whatever the machine and the data."""
    check_template(config.warmup.template)
    problems = [*_sampling_problems(config), *_learning_problems(config), *_data_problems(config)]
    if problems:
        raise BadConfig("\n".join(problems))


def _sampling_problems(config: Config) -> Iterator[str]:
    generate, select, warmup = config.generate, config.select, config.warmup
    if select.reward == "binary" and select.rule in SCORED:
        yield f"select.rule = {select.rule} ranks by a process reward: set select.reward=prm"
    if select.reward == "prm" and config.prm.path is None and config.prm.kind == "tag":
        yield "prm.kind = tag is for a PRM from elsewhere: give its folder (prm.path)"
    if select.reward == "prm" and config.prm.path is not None and config.prm.surprise:
        yield (
            "prm.surprise says how a PRM is built, and prm.path takes one that is there, whose own "
            "config says it: set prm.surprise=false, or leave prm.path out"
        )
    if select.rule in ("top_k", "random_k") and select.k > generate.samples:
        yield (
            f"select.k = {select.k} keeps more responses than generate.samples = "
            f"{generate.samples} gives"
        )
    if warmup.keep is not None and warmup.keep > warmup.samples:
        yield f"warmup.keep = {warmup.keep} is more than warmup.samples = {warmup.samples}"
    if generate.max_new_tokens >= generate.max_model_len:
        yield (
            f"generate.max_new_tokens = {generate.max_new_tokens} leaves no room for a prompt in "
            f"generate.max_model_len = {generate.max_model_len}"
        )
    if generate.lookahead < generate.engines:
        yield (
            f"generate.lookahead = {generate.lookahead} keeps some of generate.engines = "
            f"{generate.engines} without work"
        )


def _learning_problems(config: Config) -> Iterator[str]:
    learn = config.learn
    if config.warmup.checkpoint is not None and config.evolve.control:
        yield (
            "evolve.control trains on the chains of this run's own warm-up, which "
            "warmup.checkpoint skips: set evolve.control=false"
        )
    if learn.schedule != "constant" and learn.schedule_steps is None:
        yield f"learn.schedule = {learn.schedule} needs learn.schedule_steps"
    if learn.schedule_steps is not None and learn.schedule_rise > learn.schedule_steps:
        yield "learn.schedule_rise is more than learn.schedule_steps"
    if learn.ranks > learn.batch_size:
        yield f"learn.ranks = {learn.ranks} is more than learn.batch_size = {learn.batch_size}"
    if learn.window < learn.batch_size:
        yield f"learn.window = {learn.window} is less than learn.batch_size = {learn.batch_size}"


def _data_problems(config: Config) -> Iterator[str]:
    data = config.data
    splits = (data.train, data.validation, *data.test)
    twice = sorted({name for name in splits if splits.count(name) > 1})
    if twice:
        yield (
            f"data.train, data.validation and data.test are disjoint: {', '.join(twice)} is "
            "named twice"
        )


def check_machine(config: Config, cpus: float, gpus: float) -> None:
    """Refuses what the machine (or the cluster, all its nodes together) can never place.

    Roles take turns at CPUs, so each alone must fit; GPUs are held by all of them at once, since
    engines, scorers and ranks stay alive. Ranks are also refused when they outnumber the CPUs,
    whatever share of one each asks for: they wait for each other.
    """
    cluster, problems = config.cluster, []
    ranks, engines = config.learn.ranks, config.generate.engines
    if ranks > cpus:
        problems.append(f"learn.ranks = {ranks}, but there are {cpus:g} CPUs")
    per_engine = cluster.gpus_per_engine * config.generate.tensor_parallel_size
    scorers = config.prm.scorers if config.select.reward == "prm" else 0
    engine_cpus = cluster.cpus_per_engine
    asked = [
        ("learn.ranks x cluster.cpus_per_rank", ranks * cluster.cpus_per_rank, cpus, "CPUs"),
        ("generate.engines x cluster.cpus_per_engine", engines * engine_cpus, cpus, "CPUs"),
        ("prm.scorers x cluster.cpus_per_engine", scorers * engine_cpus, cpus, "CPUs"),
        (
            f"generate.engines ({engines}) and prm.scorers ({scorers}) x GPUs of an engine, and "
            f"learn.ranks ({ranks}) x cluster.gpus_per_rank",
            (engines + scorers) * per_engine + ranks * cluster.gpus_per_rank,
            gpus,
            "GPUs",
        ),
    ]
    problems += [
        f"{keys} = {need:g}, but there are {there:g} {unit}"
        for keys, need, there, unit in asked
        if need > there
    ]
    if problems:
        raise BadConfig("\n".join(problems))


def check_data(config: Config, sizes: Mapping[str, int]) -> None:
    """Refuses what the data cannot give; `sizes` is the number of queries of each split."""
    data, problems = config.data, []
    for key, name in [
        ("data.train", data.train),
        ("data.validation", data.validation),
        *(("data.test", name) for name in data.test),
    ]:
        if not sizes.get(name):
            there = ", ".join(f"{split} ({count})" for split, count in sorted(sizes.items()))
            problems.append(f"{key} = {name}: the data has no such split; it has {there or 'none'}")
    limits = [
        ("data.train_queries", data.train_queries, data.train),
        ("data.validation_queries", data.validation_queries, data.validation),
        *(("data.test_queries", data.test_queries, name) for name in data.test),
    ]
    for key, limit, name in limits:
        if limit is not None and sizes.get(name) and limit > sizes[name]:
            problems.append(f"{key} = {limit}, but split {name} has {sizes[name]} queries")
    pool = min(sizes.get(data.train, 0), data.train_queries or 2**62)
    drawn = [("warmup.queries", config.warmup.queries)]
    if config.select.reward == "prm" and config.prm.path is None:
        drawn.append(("prm.queries", config.prm.queries))
    problems += [
        f"{key} = {count}, but the pool has {pool} queries"
        for key, count in drawn
        if pool and count is not None and count > pool
    ]
    if problems:
        raise BadConfig("\n".join(problems))
