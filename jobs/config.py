"""Every setting with its default and meaning, or what a recipe comes to: `mstar-ray config`."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator

import yaml

from jobs.runtime.cli import command
from pipeline.config.fields import extra_of, fields, to_dict
from pipeline.config.schema import Config

RESUME = {
    "meaning": "",
    "noted": " When a run goes on, another value is allowed, and said.",
    "free": " When a run goes on, another value is allowed.",
}


def manual(width: int = 88) -> Iterator[str]:
    """Each section and setting: default, meaning, and whether a run may go on with another value.

    width: characters of a line at most.
    """
    section = ""
    for key, info in fields():
        name, _, leaf = key.partition(".")
        if name != section:
            section = name
            yield f"\n{section}: {_text(Config.model_fields[name].annotation.__doc__, width)}"
        yield f"  {leaf} = {json.dumps(info.default, ensure_ascii=False)}"
        meaning = (info.description or "") + RESUME[extra_of(info).get("resume", "meaning")]
        yield textwrap.indent(_text(meaning, width - 6), "      ")


def resolved(config: Config) -> str:
    """A configuration with every setting spelled out, as a YAML recipe."""
    return yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True)


def _text(text: str | None, width: int) -> str:
    return textwrap.fill(" ".join((text or "").split()), width)


if __name__ == "__main__":
    command("config")
