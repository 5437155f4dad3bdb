"""Where a pooling vLLM has its head is asked of its model, whatever the family.

That weights arrive there is shown by every family of `tests/end_to_end/test_families.py`.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from torch import nn

from actors.scoring.vllm_head_loader import head_parameter, one_label
from pipeline.errors import BadModel


def model(**parts: nn.Module) -> nn.Module:
    return nn.ModuleDict(parts)


def test_the_head_is_at_the_top_or_inside_of_the_language_model() -> None:
    head = nn.Linear(4, 1, bias=False)
    layers = nn.Linear(4, 4)
    assert head_parameter(model(model=layers, score=head))[0] == "score.weight"
    name, weight = head_parameter(model(language_model=model(model=layers, score=head)))
    assert name == "language_model.score.weight"
    assert weight is head.weight


@pytest.mark.parametrize("heads", [0, 2])
def test_a_model_without_one_head_says_what_serves_it(heads: int) -> None:
    parts = {f"part{i}": model(score=nn.Linear(4, 1)) for i in range(heads)}
    with pytest.raises(BadModel, match=rf"made {heads} heads .* prm.engine=transformers"):
        head_parameter(model(underscore=nn.Linear(4, 1), **parts))


def test_a_language_models_own_config_has_one_label_too() -> None:
    text = SimpleNamespace(num_labels=2)
    config = SimpleNamespace(num_labels=2, get_text_config=lambda: text)
    assert one_label(config) is config
    assert (config.num_labels, text.num_labels) == (1, 1)
