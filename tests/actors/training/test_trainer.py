"""One rank and two: the same gradients, the same bits after a restart, the policy as it was named.

What two ranks do is computed once, in processes of their own (tests.support.learning).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from actors.model.collate import Collator
from actors.model.folder import weight_files
from actors.model.images import ImageCache, image_path
from actors.model.processor import load_processor
from actors.training.checkpoint import owners, read_manifest
from actors.training.checkpoint_tree import MANIFEST
from actors.training.rows import RowMaker
from actors.training.trainer import Trainer, engine_config, load_policy, partition
from pipeline.errors import BadModel, CorruptObject, TrainingDiverged
from pipeline.prompts import PromptTemplates, prompt_hash
from pipeline.query import Query
from pipeline.responses import answer_alone, extract_answer
from pipeline.storage.backend import MemoryBackend
from pipeline.storage.store import Store
from pipeline.training.metrics import RankReport, merge
from pipeline.training.rows import TrainRow
from pipeline.training.settings import LearnSettings
from tests.support.learning import (
    IMAGES,
    SETTINGS,
    TWO_RANKS,
    gradients,
    group_of_one,
    image_bytes,
    make_rows,
    save,
    tiny_policy,
)

# On two idle cores all of it takes a minute; on busy ones two ranks wait for each other a lot.
pytestmark = pytest.mark.timeout(1200)
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def policy() -> Path:
    return tiny_policy()


@pytest.fixture(scope="module")
def rows(policy: Path) -> list[TrainRow]:
    return make_rows(policy, 18)


@pytest.fixture(scope="module", autouse=True)
def _group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with group_of_one(tmp_path_factory.mktemp("group")):
        yield


@pytest.fixture(scope="module")
def pair(policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what two ranks made."""
    folder = tmp_path_factory.mktemp("pair")
    shutil.copytree(policy, folder / "policy")
    root = Path(__file__).resolve().parents[3]
    commands = [
        [sys.executable, "-m", "tests.support.learning", str(rank), "2", str(folder)]
        for rank in range(2)
    ]
    ranks = [subprocess.Popen(command, cwd=root) for command in commands]
    try:
        assert [rank.wait(timeout=1000) for rank in ranks] == [0, 0]
    finally:
        for rank in ranks:
            rank.kill()
    return folder


def settings(**changes: Any) -> LearnSettings:
    return SETTINGS.model_copy(update=changes)


def trainer(policy: Path, checkpoint: Path | None = None, **changes: Any) -> Trainer:
    return Trainer(settings(**changes), policy, image_bytes, checkpoint)


@pytest.fixture(scope="module")
def reference(policy: Path, rows: list[TrainRow]) -> dict[str, np.ndarray]:
    """Gradients of the first batch by plain transformers: row by row, without padding."""
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(policy, dtype=torch.float32)
    collator = Collator(policy, image_bytes)
    tokens = sum(len(row.token_ids_T) for row in rows[:8])
    for row in rows[:8]:
        pictures = [collator.pictures.get(sha) for sha in row.images]
        made = collator.processor.inputs(row.prompt, pictures)
        prompt = made.pop("input_ids")
        whole = torch.cat([prompt, torch.tensor([row.token_ids_T])], dim=1)
        made["attention_mask"] = torch.ones_like(whole)
        logprobs = model(input_ids=whole, **made).logits[0].log_softmax(-1)
        for place in range(prompt.shape[1], whole.shape[1]):
            (-logprobs[place - 1, whole[0, place]] / tokens).backward(retain_graph=True)
    return {name: p.grad.numpy() for name, p in model.named_parameters()}


def furthest(found: Any, wanted: dict[str, np.ndarray]) -> float:
    assert set(found) == set(wanted)
    return max(float(np.abs(found[name] - wanted[name]).max()) for name in wanted)


def test_a_model_is_divided_before_deepspeed_puts_it_on_a_device(policy: Path) -> None:
    trainer(policy).close()  # DeepSpeed is there
    asked = settings(zero_stage=3)
    model = load_policy(policy, asked)
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    partition(model, engine_config(asked, 1))
    for name, parameter in model.named_parameters():
        assert (parameter.numel(), parameter.ds_numel) == (0, sizes[name])


@pytest.mark.parametrize(("stage", "micro_batch"), [(1, 1), (1, 8), (2, 3), (3, 8), (3, 3)])
def test_gradients_are_those_of_the_formula(
    policy: Path,
    rows: list[TrainRow],
    reference: dict[str, np.ndarray],
    stage: int,
    micro_batch: int,
) -> None:
    made = trainer(policy, zero_stage=stage, micro_batch=micro_batch)
    assert len(made.passes(rows[:8])) == -(-8 // micro_batch)
    assert furthest(gradients(made, rows[:8]), reference) < TOLERANCE
    made.close()


def test_two_ranks_have_the_same_gradients(pair: Path, reference: dict[str, np.ndarray]) -> None:
    for stage, micro_batch in TWO_RANKS:
        found = load_file(pair / f"gradients-{stage}-{micro_batch}.safetensors")
        assert furthest(found, reference) < TOLERANCE, (stage, micro_batch)


def test_gradient_checkpointing_changes_nothing_but_memory(
    policy: Path, rows: list[TrainRow], reference: dict[str, np.ndarray]
) -> None:
    made = trainer(policy, gradient_checkpointing=True)
    assert furthest(gradients(made, rows[:8]), reference) < TOLERANCE
    made.close()


@pytest.mark.parametrize(
    "changes",
    [
        {"zero_stage": 2},
        {"zero_stage": 1, "deterministic": True, "schedule_rise": 5},
        {"zero_stage": 3, "gradient_checkpointing": True},
        # A CPU computes in bfloat16 slowly.
        {"zero_stage": 1, "precision": "bfloat16", "batch_size": 2},
        {"zero_stage": 3, "precision": "bfloat16", "batch_size": 2},
    ],
    ids=str,
)
def test_training_goes_on_bit_for_bit_after_a_restart(
    policy: Path, rows: list[TrainRow], tmp_path: Path, changes: dict[str, Any]
) -> None:
    rows = rows[: changes.get("batch_size", 8) + 2]
    whole = trainer(policy, **changes)
    for interval in range(3):
        whole.train(rows, interval)
    wanted = save(whole, tmp_path / "whole", {})
    whole.close()

    folder = None
    for interval in range(3):
        parted = trainer(policy, folder, **changes)
        assert parted.step == 2 * interval
        parted.train(rows, interval, first=0, last=1)
        parted.train(rows, interval, first=1)
        folder = tmp_path / f"parted-{interval}"
        found = save(parted, folder, {})
        parted.close()
    assert found == wanted


def test_a_new_optimizer_ends_elsewhere(policy: Path, rows: list[TrainRow], tmp_path: Path) -> None:
    whole = trainer(policy)
    whole.train(rows[:10], 0)
    whole.publish(tmp_path / "policy")
    whole.train(rows[:10], 1)
    wanted = save(whole, tmp_path / "whole", {})
    whole.close()
    reset = trainer(tmp_path / "policy")
    reset.train(rows[:10], 1)
    found = save(reset, tmp_path / "reset", {})
    reset.close()
    new, old = tensors(tmp_path / "reset", found), tensors(tmp_path / "whole", wanted)
    weights = [name for name in old if name.startswith("master/")]
    assert any(not np.array_equal(new[name], old[name]) for name in weights)


def test_two_ranks_go_on_bit_for_bit_too(pair: Path) -> None:
    for interval in (1, 2):
        wanted = read_manifest(pair / f"whole-{interval}")
        assert read_manifest(pair / f"parted-{interval}") == wanted
        assert len(wanted["files"]) == 2
        assert wanted["files"] != read_manifest(pair / f"whole-{interval - 1}")["files"]


def test_a_new_optimizer_of_two_ranks_ends_elsewhere_too(pair: Path) -> None:
    wanted, reset = tensors(pair / "whole-1"), tensors(pair / "reset")
    assert set(reset) == set(wanted)
    weights = [name for name in wanted if name.startswith("master/")]
    assert any(not np.array_equal(reset[name], wanted[name]) for name in weights)


def test_ranks_share_the_work_and_agree_on_the_rest(pair: Path) -> None:
    told = [json.loads((pair / f"told-{rank}.json").read_text()) for rank in range(2)]
    parts = [RankReport(**each["report"]) for each in told]
    assert parts[0].tokens_S == parts[1].tokens_S
    assert parts[0].grad_norm_S == parts[1].grad_norm_S
    assert all(nll > 0 for part in parts for nll in part.nll_S)
    rows_of = [set(each["logprobs"]) for each in told]
    assert rows_of[0] | rows_of[1] == {"0", "1", "2", "3", "4", "5"}
    assert not rows_of[0] & rows_of[1]


def test_one_rank_reads_what_two_wrote(pair: Path, rows: list[TrainRow], tmp_path: Path) -> None:
    made = trainer(pair / "policy", pair / "parted-2", zero_stage=1)
    assert (made.step, made.cursor) == (9, {"interval": 2})
    found = save(made, tmp_path / "one", {"interval": 2})
    one, two = tensors(tmp_path / "one", found), tensors(pair / "parted-2")
    assert set(one) == set(two)
    assert all(np.array_equal(one[name], two[name]) for name in one)

    told = [json.loads((pair / f"told-{rank}.json").read_text()) for rank in range(2)]
    theirs = told[0]["logprobs"] | told[1]["logprobs"]
    for row, values in made.logprobs(rows[:6], 0.7).items():
        assert values == pytest.approx(theirs[str(row)], abs=TOLERANCE)
    made.close()


def tensors(folder: Path, manifest: dict[str, Any] | None = None) -> dict[str, np.ndarray]:
    parts = (manifest or read_manifest(folder))["files"]
    return {name: value for part in parts for name, value in load_file(folder / part).items()}


def test_the_loss_is_a_mean_over_response_tokens(
    policy: Path, rows: list[TrainRow], tmp_path: Path
) -> None:
    made = trainer(policy, zero_stage=2)
    logprobs = made.logprobs(rows[:8], 1.0)
    metrics = merge([made.train(rows[:8], 0)])
    allowed = made.collator.processor.vocabulary - len(made.collator.processor.forbidden)
    made.close()
    count = sum(len(row.token_ids_T) for row in rows[:8])
    assert [len(logprobs[i]) for i in range(8)] == [len(row.token_ids_T) for row in rows[:8]]
    assert (metrics.steps, metrics.rows, metrics.tokens) == (1, 8, count)
    # Sampling forbids a few ids, training does not.
    assert metrics.loss == pytest.approx(-sum(sum(v) for v in logprobs.values()) / count, abs=0.1)
    assert allowed < made.collator.processor.vocabulary


@pytest.mark.parametrize(("precision", "stage"), [("float32", 1), ("bfloat16", 3)])
def test_a_published_policy_is_the_trained_one_under_its_old_names(
    policy: Path, rows: list[TrainRow], tmp_path: Path, precision: Any, stage: Any
) -> None:
    made = trainer(policy, precision=precision, zero_stage=stage)
    made.train(rows[:8], 0)
    wanted = made.logprobs(rows[:6], 0.7)
    made.publish(tmp_path / "made")
    with pytest.raises(FileExistsError, match="never written twice"):
        made.publish(tmp_path / "made")
    made.close()
    again = trainer(tmp_path / "made", precision=precision, zero_stage=stage)
    assert again.logprobs(rows[:6], 0.7) == wanted
    again.close()
    assert weight_files(tmp_path / "made") == weight_files(policy)
    assert sorted(os.listdir(tmp_path / "made")) == sorted(os.listdir(policy))
    assert json.loads((tmp_path / "made/config.json").read_text())["dtype"] == precision
    for name in ("tokenizer.json", "processor_config.json", "chat_template.jinja"):
        assert (tmp_path / "made" / name).read_bytes() == (policy / name).read_bytes()


def test_two_ranks_publish_what_one_would(pair: Path) -> None:
    found = load_file(pair / "published/model.safetensors")
    saved = tensors(pair / "parted-2")
    for name, value in found.items():
        if f"master/{name}" in saved:
            assert np.array_equal(value, saved[f"master/{name}"])
    assert len(found) >= len([name for name in saved if name.startswith("master/")])


def test_frozen_parameters_stay(policy: Path, rows: list[TrainRow], tmp_path: Path) -> None:
    frozen = ("model.vision_model.*", "model.connector.*")
    made = trainer(policy, zero_stage=3, frozen=frozen)
    before = tensors(tmp_path / "before", save(made, tmp_path / "before", {}))
    made.train(rows[:8], 0)
    folder = tmp_path / "after"
    after = tensors(folder, save(made, folder, {}))
    made.close()
    still = {name for name in before if np.array_equal(before[name], after[name])}
    assert {name for name in still if name.startswith("master/")} == {
        name for name in before if "vision_model" in name or "connector" in name
    }
    assert not any(name.startswith("exp") for name in still)
    with pytest.raises(BadModel, match="names no parameter"):
        trainer(policy, frozen=("model.tower.*",))


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_step_without_images_gives_the_vision_tower_no_gradient(
    policy: Path, rows: list[TrainRow], tmp_path: Path, stage: Any
) -> None:
    """And none that an earlier step left behind."""
    made = trainer(policy, zero_stage=stage)
    made.train([row for row in rows if row.images][:8], 0)
    before = tensors(tmp_path / "before", save(made, tmp_path / "before", {}))
    made.train([row for row in rows if not row.images], 0)
    after = tensors(tmp_path / "after", save(made, tmp_path / "after", {}))
    made.close()
    tower = [name for name in before if name.startswith("exp_avg/model.vision_model")]
    assert tower
    for name in tower:
        assert np.allclose(after[name], before[name] * SETTINGS.beta1, rtol=1e-5), name


@pytest.mark.parametrize("damage", ["cut", "remove", "manifest"])
def test_a_damaged_checkpoint_is_refused_by_name(policy: Path, tmp_path: Path, damage: str) -> None:
    made = trainer(policy)
    manifest = save(made, tmp_path / "saved", {})
    made.close()
    part = tmp_path / "saved" / next(iter(manifest["files"]))
    data = bytearray(part.read_bytes())
    if damage == "cut":
        part.write_bytes(data[:-1])
    elif damage == "remove":
        part.unlink()
    else:
        part = part.with_name(MANIFEST)
        part.write_text("{}")
    with pytest.raises(CorruptObject, match=part.name):
        trainer(policy, tmp_path / "saved")


def test_a_checkpoint_of_another_model_is_refused(policy: Path, tmp_path: Path) -> None:
    made = trainer(policy)
    save(made, tmp_path / "saved", {})
    made.close()
    other = shutil.copytree(policy, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] -= 1
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadModel, match="made for another model"):
        trainer(other, tmp_path / "saved")


def test_a_gradient_that_is_no_number_stops_training(policy: Path, rows: list[TrainRow]) -> None:
    made = trainer(policy)
    with torch.no_grad():
        made.model.lm_head.weight[5, 0] = float("nan")
    with pytest.raises(TrainingDiverged, match="optimizer step 1"):
        made.train(rows[:8], 0)
    made.close()


def test_parts_of_a_checkpoint_are_about_equally_large() -> None:
    sizes = [7, 100, 3, 50, 50, 1]
    found = owners(sizes, 2)
    loads = [sum(s for s, o in zip(sizes, found, strict=True) if o == rank) for rank in range(2)]
    assert abs(loads[0] - loads[1]) <= 11


@pytest.mark.parametrize("changes", [{}, {"precision": "bfloat16", "batch_size": 2}], ids=str)
def test_weights_alone_are_the_masters_with_a_new_optimizer(
    policy: Path, rows: list[TrainRow], tmp_path: Path, changes: dict[str, Any]
) -> None:
    """What Iterative RFT and ReST-EM begin with: float32 master weights bit for bit, not what is
    published of them, moments of zero, and the first step of a schedule."""
    rows = rows[: changes.get("batch_size", 8)]
    before = trainer(policy, **changes)
    before.train(rows, 0)
    save(before, tmp_path / "before", {})
    before.publish(tmp_path / "published")
    before.close()
    fresh = trainer(policy, tmp_path / "before", inherit="weights", **changes)
    assert fresh.step == 0
    save(fresh, tmp_path / "fresh", {})
    rate = [point["lr"] for point in fresh.engine.optimizer.param_groups]
    fresh.close()
    assert set(rate) == {SETTINGS.learning_rate}
    old, new = (tensors_of(tmp_path / name) for name in ("before", "fresh"))
    masters = [key for key in old if key.startswith("master/")]
    assert all(torch.equal(old[key], new[key]) for key in masters)
    moments = [key for key in new if key.startswith(("exp_avg/", "exp_avg_sq/"))]
    assert moments
    assert all(not new[key].any() for key in moments)
    assert any(old[key].any() for key in moments), "there were some to inherit"
    if changes:
        rounded = trainer(tmp_path / "published", **changes)
        save(rounded, tmp_path / "rounded", {})
        rounded.close()
        other = tensors_of(tmp_path / "rounded")
        assert not all(torch.equal(old[key], other[key]) for key in masters)


def tensors_of(checkpoint: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file as load

    return {
        key: one for path in checkpoint.glob("*.safetensors") for key, one in load(path).items()
    }


def test_sft_teaches_gold_answers_in_the_form_of_a_response(policy: Path) -> None:
    """Tokens and prompt are the processor's, the end token is trained on, and the answers become
    likelier: with the moments of the steps before, in one training."""
    sha = sorted(IMAGES)[0]
    queries = [Query(f"q{i}", (sha,) * (i % 2), f"What is {i}?", None, str(i), "number")
               for i in range(8)]  # fmt: skip
    store = Store(MemoryBackend())
    store.put(image_path(sha), image_bytes(sha))
    by_hash = {query.content_hash: query for query in queries}
    processor = load_processor(policy)
    gold = [(name, answer_alone(str(query.answer))) for name, query in by_hash.items()]
    rows = RowMaker(store, by_hash, PromptTemplates()).gold(processor, gold).rows
    for row, query in zip(rows, queries, strict=True):
        assert row.token_ids_T[-1] in processor.end_ids
        assert extract_answer(processor.decode(row.token_ids_T)) == query.answer
        assert row.prompt_sha256 == prompt_hash(
            processor.input_ids(row.prompt, row.images, ImageCache(image_bytes).get)
        )
    learner = trainer(policy, learning_rate=1e-3)
    nats = [_nats(learner, rows)]
    for epoch in range(4):
        learner.train(rows, epoch)
    nats.append(_nats(learner, rows))
    assert learner.step == 4
    learner.close()
    assert nats[1] > nats[0] + 1.0


def _nats(learner: Trainer, rows: list[TrainRow]) -> float:
    """The mean log-likelihood of the responses."""
    return float(np.mean([sum(row) for row in learner.logprobs(rows, 1.0).values()]))
