"""The published formats that are read, and which of them a file is in."""

from __future__ import annotations

from pathlib import Path

from pipeline.datasets.adapters import (
    ai2d,
    easyr1,
    huggingface,
    llava,
    m3cot,
    mathverse,
    mathvista,
    mmk12,
    mmmu,
    mmstar,
    verl,
    virl39k,
    vlmevalkit,
)
from pipeline.datasets.published_form import Form, Values
from pipeline.errors import BadConfig, BadData

OWN = "own"
AUTO = "auto"
_MODULES = (
    llava, verl, mmmu, mathvista, mathverse, m3cot, mmstar, vlmevalkit, easyr1, virl39k, mmk12,
    ai2d, huggingface,
)  # fmt: skip

FORMS: dict[str, Form] = {module.FORM.name: module.FORM for module in _MODULES}
"""By name, the more particular first: the first that fits is taken."""


def form_of(file: Path, first: Values, named: str, own: frozenset[str]) -> Form | None:
    """The format of a file by its first row; None: our own.

    named: what the user says it is; "auto": to be found by shape. own: the columns of ours.

    Raises:
        BadData: it is in no format that is read. BadConfig: there is no format of that name.
    """
    if named not in (AUTO, OWN, *FORMS):
        raise BadConfig(f"data.format = {named}: known are {AUTO}, {OWN}, {', '.join(FORMS)}")
    if named in FORMS:
        if not FORMS[named].fits(first):
            raise BadData(
                f"{file}: data.format = {named} is told by {FORMS[named].says}; this has "
                f"{', '.join(sorted(first))}"
            )
        return FORMS[named]
    if named == OWN or first.keys() <= own:
        return None
    for form in FORMS.values():
        if form.fits(first):
            return form
    if first.keys() & own:
        return None  # meant to be ours: each column that is not is named
    looked = "; ".join(f"{form.name}: {form.says}" for form in FORMS.values())
    raise BadData(
        f"{file}: unknown format, with columns {', '.join(sorted(first)) or 'none'}. Looked for: "
        f"question, answer, images, … (docs/data.md); {looked}"
    )
