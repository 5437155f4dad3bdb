"""Recipes by name: the YAML files in `jobs/recipes`, or any other file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jobs.runtime.cli import did_you_mean
from pipeline.config.load import load_config
from pipeline.config.schema import Config
from pipeline.errors import BadConfig

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
"""Recipes of runs; those of tables lie in its folder `tables`."""


def load_recipe(recipe: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The configuration of a recipe, with `section.key=value` overrides applied.

    recipe: a YAML file, or the name of one in `jobs/recipes`.

    Raises:
        BadConfig: there is no such recipe, or it cannot be used (`load_config`).
    """
    return load_config(recipe_path(recipe), overrides)


def recipe_path(recipe: str | Path, folder: Path = RECIPES) -> Path:
    """The file of a recipe: a YAML file, or the name of one in a folder.

    Raises:
        BadConfig: there is no such recipe.
    """
    path = Path(recipe)
    named = folder / f"{path.name}.yaml"
    if path == Path(path.name) and not path.is_file() and named.is_file():
        path = named
    if path.is_dir():
        raise BadConfig(f"recipe {recipe}: this is a folder; a recipe is a YAML file")
    if not path.exists():
        names = sorted(item.stem for item in folder.glob("*.yaml"))
        raise BadConfig(
            f"no recipe {str(recipe)!r}{did_you_mean(str(recipe), names)} Give a YAML file, or one "
            f"of {', '.join(names)}"
        )
    return path
