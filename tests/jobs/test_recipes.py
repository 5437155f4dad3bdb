"""The recipe for a cluster says of every number whose it is; recipes for GPUs fit the hardware that
their first line names."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import yaml

from jobs.runtime.recipes import RECIPES, load_recipe
from pipeline.config.fields import fields
from pipeline.plan.gpus import GPUS
from pipeline.plan.text import held_gpus
from pipeline.responses import extract_answer, format_ok
from tests.support.jobs import mstar

SETTING = re.compile(r"  (?P<key>\w+): *(?P<value>[^#]*?) *(?:# *(?P<comment>.*))?")


def test_a_number_that_decides_nothing_about_the_method_is_not_passed_off_as_the_papers() -> None:
    decides_nothing = {
        key
        for key, info in fields()
        if isinstance(info.json_schema_extra, dict) and "resume" in info.json_schema_extra
    }
    unmarked, section = [], ""
    for line in (RECIPES / "cluster.yaml").read_text().splitlines():
        found = SETTING.fullmatch(line)
        if found is None:
            section = line.partition(":")[0] if line and line[0].isalpha() else section
            continue
        key, value = f"{section}.{found['key']}", yaml.safe_load(found["value"])
        marked = (found["comment"] or "").startswith(("[machine]", "[open]"))
        if key in decides_nothing and isinstance(value, bool | int | float) and not marked:
            unmarked.append(key)
    assert section == "cluster"
    assert unmarked == []


# --- hardware ------------------------------------------------------------------------------------

HARDWARE = re.compile(r"(?P<count>\d+) x (?P<gpu>\S+-\d+GB)")


def on_gpus() -> Iterator[tuple[str, str, int]]:
    """Each recipe for GPUs with every kind that its first line names, and how many of it."""
    for path in sorted(RECIPES.glob("*.yaml")):
        first = path.read_text().splitlines()[0]
        found = HARDWARE.search(first)
        if found is not None:
            for gpu in re.findall(r"\w+-\d+GB", first):
                yield path.stem, gpu, int(found["count"])


FITTING = list(on_gpus())


def test_a_recipe_that_asks_for_gpus_says_which_in_its_first_line() -> None:
    asks = {
        path.stem
        for path in RECIPES.glob("*.yaml")
        if held_gpus(load_recipe(path.stem), turns=False)
    }
    assert asks == {name for name, _, _ in FITTING}
    assert asks == {"cluster", "qwen2.5-vl-7b", "internvl3-2b", "smolvlm2"}
    assert {gpu for _, gpu, _ in FITTING} <= set(GPUS)


@pytest.mark.parametrize(("name", "gpu", "count"), FITTING)
def test_a_recipe_fits_its_hardware(name: str, gpu: str, count: int) -> None:
    assert held_gpus(load_recipe(name), turns=False) == pytest.approx(count)
    done = mstar("plan", "--recipe", name, "--gpu", gpu)
    assert done.exit_code == 0, done.output
    assert "GPUs: " in done.output
    assert "a rank of the learner" in done.output


@pytest.mark.parametrize("name", sorted({name for name, _, _ in FITTING}))
def test_a_recipe_for_gpus_is_a_valid_one_and_asks_for_our_answer_format(name: str) -> None:
    done = mstar("config", "--recipe", name)
    assert done.exit_code == 0, done.output
    templates = load_recipe(name).prompt.templates
    for template in (templates.question, templates.warmup):
        assert '"# Answer"' in template
        assert "a blank line between steps" in template
    # A response that does what the template says is read.
    response = "The bar is 3 high.\n\nTwice that is 6.\n\n# Answer\n\n6"
    assert format_ok(response)
    assert extract_answer(response) == "6"
