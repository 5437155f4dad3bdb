"""The value head: a process reward model is the policy with a scalar head on a step's last token.

Always: a PRM folder is a complete model folder with one more tensor, `score.weight` of shape
(1, hidden), and `num_labels: 1` in its config. transformers reads everything but the head from it
(`AutoModelForImageTextToText`, then `add_head`), vLLM all of it as a pooling model. The head sees
the hidden state after the last norm; its logit's sigmoid is the probability that the step leads to
the correct answer.

With a number `score_surprise` in its config the head also sees how likely the model itself finds
what it reads: that weight times the log-probability, in nats, of the response up to the step's end
is added to the logit (`actors.model.likelihood`). It stands in the config because engines refuse
tensors they have no place for.

Axes: B rows, S steps of all rows of a batch, L padded tokens, H hidden.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from actors.model.collate import Micro
from actors.model.folder import INDEX, weight_files
from actors.model.likelihood import StepSpans, logprobs_so_far
from actors.model.reading import model_class
from pipeline.errors import BadData, BadModel
from pipeline.training.settings import StepLoss

HEAD = "score.weight"

LIKELIHOOD, LIKELIHOOD_KEY = "score.surprise", "score_surprise"
"""The weight of the response's log-likelihood, as checkpoints and the configs of PRMs name it."""


class _ValueHead:
    """Mixed into a model's class: its forward gives step logits instead of token logits."""

    base_model: Any
    score: Any

    def forward(
        self, *, step_rows: Tensor, step_starts: Tensor, step_positions: Tensor, **inputs: Any
    ) -> Tensor:
        """Logits, (S,), float32, of the tokens at (step_rows, step_positions).

        step_starts: where the first token of each step stands; rows' steps come in order.
        """
        hidden_B_L_H = self.base_model(**inputs).last_hidden_state
        chosen_S_H = hidden_B_L_H[step_rows, step_positions]
        logits: Tensor = self.score(chosen_S_H).squeeze(-1).float()
        if self.score.surprise is not None:
            spans = StepSpans(step_rows, step_starts, step_positions)
            tokens: Any = self.get_output_embeddings()  # type: ignore[attr-defined]
            so_far_S = logprobs_so_far(hidden_B_L_H, inputs["input_ids"], tokens, spans)
            logits = logits + so_far_S * self.score.surprise.float()
        return logits


def add_head(model: Any, weight: Tensor, likelihood: Tensor | None = None) -> Any:
    """Turn a loaded image-text-to-text model into a PRM in place; its token head gets no gradient.

    weight: (1, hidden). likelihood: (1,), or none for a head that sees the hidden state alone.
    """
    hidden = model.config.get_text_config().hidden_size
    if tuple(weight.shape) != (1, hidden):
        raise BadModel(f"{HEAD} is {tuple(weight.shape)}, and this model needs (1, {hidden})")
    tokens, read = model.get_output_embeddings(), model.get_input_embeddings()
    if tokens is not None and tokens.weight is not read.weight:
        tokens.requires_grad_(False)
    model.score = nn.Linear(hidden, 1, bias=False, dtype=model.dtype)
    with torch.no_grad():
        model.score.weight.copy_(weight)
    given = None if likelihood is None else nn.Parameter(likelihood.to(model.dtype).clone())
    model.score.register_parameter("surprise", given)
    kind = type(model)
    # A class of its own, so that everything else (names of weights above all) stays the model's.
    model.__class__ = type(f"{kind.__name__}WithValueHead", (_ValueHead, kind), {})
    return model


def parameter_names(folder: Path, trust_remote_code: bool = False) -> list[str]:
    """What the parameters of a policy are called in training; no weight is read.

    Families' files may hold other names, which transformers translates on loading.

    Raises:
        BadModel: transformers cannot make such a model.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=trust_remote_code
        )
        kind = model_class(config, trust_remote_code)
        if kind is None:
            raise BadModel(f"{folder}: transformers has no image-text-to-text model for its config")
        with torch.device("meta"):
            model = kind.from_config(config, trust_remote_code=trust_remote_code)
    except (ImportError, KeyError, OSError, ValueError) as error:
        raise BadModel(f"{folder}: no model can be made of its config: {error}") from error
    return [name for name, _ in model.named_parameters()]


def read_head(folder: Path) -> Tensor:
    """The head stored in a PRM folder.

    Raises:
        BadModel: there is none, it has another shape, or it holds no finite numbers.
    """
    from safetensors import safe_open

    files = weight_files(folder)
    file = files.get(HEAD)
    if "score.bias" in files:
        raise BadModel(f"{folder}: its score head has a bias, and no scorer here adds one")
    if file is None:
        raise BadModel(
            f"{folder} has no {HEAD}, so it is a policy and not a process reward model; a model "
            "that answers + or - at a step tag is used with prm.kind=tag"
        )
    with safe_open(folder / file, framework="pt") as held:
        weight: Tensor = held.get_tensor(HEAD)
    if weight.dim() != 2 or weight.shape[0] != 1:
        raise BadModel(f"{folder}: {HEAD} is {tuple(weight.shape)}; a PRM scores with one number")
    if not torch.isfinite(weight).all():
        raise BadModel(f"{folder}: {HEAD} holds values that are not finite numbers")
    return weight


def read_likelihood(folder: Path) -> Tensor | None:
    """The weight (1,) of what the model finds likely; None where its head does not see it.

    Raises:
        BadModel: it is no finite number.
    """
    found = json.loads((folder / "config.json").read_text("utf-8")).get(LIKELIHOOD_KEY)
    if found is None:
        return None
    # JSON's true is an int to Python, and would be 1.
    number = isinstance(found, int | float) and not isinstance(found, bool)
    if not number or not math.isfinite(found):
        raise BadModel(f"{folder}: {LIKELIHOOD_KEY} in its config is {found}, no finite number")
    return torch.tensor([float(found)])


def write_headed(policy: Path, folder: Path, *, likelihood: bool = False) -> Path:
    """The folder that PRM training starts from: a policy with a head of zeros (p = 1/2 everywhere).

    Everything else is the policy's, byte for byte, but for `num_labels` (and, with `likelihood`,
    its weight) in its config.
    """
    config = json.loads((policy / "config.json").read_text("utf-8"))
    hidden = config.get("text_config", config)["hidden_size"]
    weight = {LIKELIHOOD_KEY: 0.0} if likelihood else {}
    return copy_with_head(policy, folder, lambda kind: torch.zeros(1, hidden, dtype=kind), weight)


def copy_with_head(
    model: Path,
    folder: Path,
    head: Callable[[torch.dtype], Tensor],
    config: Mapping[str, Any] | None = None,
) -> Path:
    """A model folder with a head beside its last weights; an older `folder` is replaced.

    head: its weight (1, hidden), from the precision of these weights. config: what the folder's
    says besides `num_labels`.
    """
    from safetensors.torch import load_file, save_file

    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(model, folder)
    file = sorted(set(weight_files(folder).values()))[-1]
    tensors = load_file(folder / file)
    tensors[HEAD] = head(next(t.dtype for t in tensors.values() if t.is_floating_point()))
    (folder / file).unlink()
    save_file(tensors, folder / file, metadata={"format": "pt"})
    if (folder / INDEX).exists():
        index = json.loads((folder / INDEX).read_text("utf-8"))
        index["weight_map"][HEAD] = file
        _write_json(folder / INDEX, index)
    told = json.loads((folder / "config.json").read_text("utf-8"))
    _write_json(folder / "config.json", {**told, "num_labels": 1, **(config or {})})
    return folder


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", "utf-8")


def take_likelihood(state: dict[str, Tensor]) -> dict[str, float]:
    """Takes the weight of what the model finds likely out of a model's state, as a config says it;
    nothing for a state without."""
    found = state.pop(LIKELIHOOD, None)
    return {} if found is None else {LIKELIHOOD_KEY: float(found)}


def steps_loss(engine: Any, micro: Micro, kind: StepLoss) -> Tensor:
    """Summed loss of a micro-batch's steps.

    Raises:
        BadData: its rows have none.
    """
    if micro.steps is None:
        raise BadData("a process reward model is trained on rows with steps, and these have none")
    logits_S = engine(
        **micro.inputs,
        use_cache=False,
        **micro.steps.named(),
    )
    return step_loss(logits_S, micro.steps.targets_S, kind)


def step_loss(logits_S: Tensor, targets_S: Tensor, kind: StepLoss) -> Tensor:
    """Summed loss of steps against their targets in [0, 1]."""
    if kind == "bce":
        return nn.functional.binary_cross_entropy_with_logits(logits_S, targets_S, reduction="sum")
    return ((logits_S.sigmoid() - targets_S) ** 2).sum()
