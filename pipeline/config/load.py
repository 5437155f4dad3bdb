"""Reading and checking configurations; `pipeline.config.schema` is their manual.

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
from pipeline.config.fields import BEFORE, RENAMED, fields
from pipeline.config.schema import Config
from pipeline.errors import BadConfig


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """The recipe in a file, with `section.key=value` overrides applied.

    Raises:
        BadConfig: not a readable YAML mapping, a key that stands twice, an unknown key, a bad
            value, an impossible combination; naming the file or the override.
    """
    raw = read_mapping(path)
    return _validated(raw, str(path), dict(_apply(raw, override) for override in overrides))


def config_from_dict(raw: Mapping[str, Any]) -> Config:
    """A checked configuration from plain nested dictionaries."""
    return _validated(raw, "config", {})


def stored_config(raw: Mapping[str, Any]) -> Config:
    """The configuration that a ledger holds, whose keys may have had other names (`RENAMED`)
    or not have been there (`BEFORE`).

    Raises:
        BadConfig: it has settings that this version does not have.
    """
    plain = {name: dict(section) for name, section in raw.items()}
    for old, new in RENAMED.items():
        (old_section, _, old_leaf), (section, _, leaf) = old.partition("."), new.partition(".")
        if old_leaf in plain.get(old_section, {}):
            plain.setdefault(section, {})[leaf] = plain[old_section].pop(old_leaf)
    for key, value in BEFORE.items():
        section, _, leaf = key.partition(".")
        plain.setdefault(section, {}).setdefault(leaf, value)
    return _validated(plain, "the run's ledger, which another version may have written", {})


def changed_config(config: Config, overrides: Sequence[str]) -> Config:
    """A configuration with `section.key=value` overrides applied. Raises as `load_config`."""
    raw = config.model_dump(mode="json", exclude_unset=True)
    return _validated(raw, "config", dict(_apply(raw, override) for override in overrides))


def _validated(raw: Mapping[str, Any], where: str, overrides: Mapping[str, str]) -> Config:
    """where: who is to blame, unless an override (its text by key) is."""
    try:
        config = Config.model_validate(raw)
    except ValidationError as error:
        lines = [_explain(item, where, overrides) for item in error.errors()]
        raise BadConfig("\n".join(lines)) from error
    check(config)
    return config


class _UniqueKeys(yaml.SafeLoader):
    """YAML in which a key stands once, where YAML itself lets the last one win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if seen.setdefault(str(key.value), line) != line:
                first = seen[str(key.value)]
                raise yaml.YAMLError(f"{key.value!r} stands in line {first} and in line {line}")
        return super().construct_mapping(node, deep)


def read_mapping(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file in which every key stands once.

    Raises:
        BadConfig: it cannot be read, or is none.
    """
    try:
        # _UniqueKeys is a SafeLoader: plain values only.
        raw = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeys)
    except OSError as error:
        raise BadConfig(f"{path}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadConfig(f"{path}: not a YAML file of settings: {error}") from error
    if raw is None:
        raise BadConfig(
            f"{path}: holds no settings. A recipe that changes nothing says so: `run: {{}}`"
        )
    if not isinstance(raw, dict):
        raise BadConfig(f"{path}: a recipe is a mapping of sections, not a {type(raw).__name__}")
    return raw


def _apply(raw: dict[str, Any], override: str) -> tuple[str, str]:
    """Set one key of a recipe; its name and how it was said."""
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise BadConfig(f"--set {override}: write it as section.key=value")
    try:
        value = yaml.safe_load(text) if text.strip() else None
    except yaml.YAMLError as error:
        raise BadConfig(
            f"--set {override}: the value is not YAML; text with braces or colons goes into quotes "
            f"of its own, as in --set '{key}=\"…\"': {error}"
        ) from error
    node = raw
    for part in parts[:-1]:
        child = node.get(part)
        if child is None:
            child = node[part] = {}
        if not isinstance(child, dict):
            raise BadConfig(f"--set {override}: {part!r} is a value, not a section")
        node = child
    node[parts[-1]] = value
    return ".".join(parts), f"--set {override}"


def _explain(item: Any, where: str, overrides: Mapping[str, str]) -> str:
    key = ".".join(str(part) for part in item["loc"])
    for name, said in overrides.items():
        if f"{key}.".startswith(f"{name}.") or name.startswith(f"{key}."):
            where = said
    if key in RENAMED:
        return f"{where}: {key!r} is called {RENAMED[key]!r} now"
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
