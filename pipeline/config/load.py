"""Loading, checking, hashing and comparing configurations; `pipeline.config.schema` is their
manual.

A configuration that this module returns has only known keys and no combination that cannot work.
What depends on the machine or the data is checked by `check_machine` and `check_data` as soon as
those are at hand, and always before anything is started.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from pipeline.config.checks import check
from pipeline.config.fields import fields
from pipeline.config.schema import Config
from pipeline.errors import BadConfig

RECIPES = Path(__file__).resolve().parents[2] / "jobs" / "recipes"


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
