"""Model families, each through the parts of a run: sampled, learned, published, served as a PRM.

Tiny models of their own configs; what is compared is in `tests/support/family_path.py`, and
`docs/families.md` has the figures.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.family_table import FAMILIES, LIMIT, PAGE, RESULTS, measure, page, problems

IN_THE_FAST_SUITE = ("LLaVA", "Qwen2.5-VL")


@pytest.mark.parametrize(
    "family",
    [
        family if family in IN_THE_FAST_SUITE else pytest.param(family, marks=pytest.mark.slow)
        for family in FAMILIES
    ],
)
@pytest.mark.timeout(900)
def test_engine_learner_and_scorers_agree(family: str, tmp_path: Path) -> None:
    figures = measure(family, tmp_path)
    assert list(problems(family, figures)) == [], json.dumps(figures, indent=2)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("family", "limit"),
    [
        ("Qwen2.5-VL", 8),
        ("GLM-4.1V", 8),
        ("SmolVLM2", 8),
        ("InternVL", 12),
        ("Pixtral", 16),
        ("Mistral3", 9),
    ],
)
def test_images_of_fewer_tokens_are_the_same_in_every_part(
    family: str, limit: int, tmp_path: Path
) -> None:
    """data.max_image_tokens, as it is published with the policy."""
    figures = measure(family, tmp_path, limit=limit)
    assert list(problems(family, figures)) == [], json.dumps(figures, indent=2)
    stored = json.loads(RESULTS.read_text("utf-8"))["families"][family]["image tokens"]
    fewer = [figures["image tokens"][size] < count for size, count in stored.items()]
    assert any(fewer), figures["image tokens"]


def test_the_page_shows_the_figures_that_are_stored() -> None:
    families = json.loads(RESULTS.read_text("utf-8"))["families"]
    text = PAGE.read_text("utf-8")
    assert text == page(text, families)
    whole = [name for name in families if name not in ("Gemma 3", "MiniCPM-V 4.6")]
    assert len(whole) >= 8
    for family, figures in families.items():
        assert list(problems(family, figures)) == []
    assert all(families[name]["PRM scores, images"] <= LIMIT for name in whole)
