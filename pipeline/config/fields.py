"""The settings one by one: their paths, values and metadata."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from pipeline.config.schema import Config

RENAMED = {
    "prm.surprise": "prm.log_likelihood",
    "warmup.template": "prompt.warmup",
}
"""Keys by the name that older ledgers have them under; hashes keep the old name."""


BEFORE: dict[str, Any] = {"run.rules": 1, "select.otherwise": "random"}
"""What a ledger without a key means by that, where it is not the default: how it was done before
there was the key. A key that says so enters no hash."""


def to_dict(config: Config) -> dict[str, Any]:
    """Plain JSON form, every field spelled out."""
    return config.model_dump(mode="json")


def hashed_name(key: str) -> str:
    """The name under which a key enters what is hashed, which renaming it must not change."""
    return next((old for old, new in RENAMED.items() if new == key), key)


def hashed_section(config: Config, section: str) -> dict[str, Any]:
    """One section in plain JSON form, as it enters content-addressed objects; a setting that came
    later where it is not as it was without it."""
    plain = to_dict(config)[section]
    later = {
        key: info.get_default()
        for key, info in fields()
        if extra_of(info).get("added") and key.startswith(f"{section}.")
    }
    return {
        hashed_name(f"{section}.{leaf}").partition(".")[2]: value
        for leaf, value in plain.items()
        if f"{section}.{leaf}" not in later or later[f"{section}.{leaf}"] != value
    }


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


def extra_of(info: FieldInfo) -> dict[str, Any]:
    extra = info.json_schema_extra
    return extra if isinstance(extra, dict) else {}


def leaf_of(plain: Mapping[str, Any], key: str) -> Any:
    section, _, leaf = key.partition(".")
    inside = plain[section]
    return None if inside is None else inside[leaf]
