"""The recipe for a cluster says of every number whose it is."""

from __future__ import annotations

import re

import yaml

from jobs.runtime.recipes import RECIPES
from pipeline.config.fields import fields

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
