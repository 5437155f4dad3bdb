"""What a run's models are to somebody who gets them: folders that transformers and vLLM load."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from pipeline.prompts import prompt_hash
from pipeline.records import Rollout
from pipeline.reports.comparison import named_policies
from pipeline.run.stored import StoredRun
from pipeline.storage.artifacts import read_rows
from tests.support.jobs import mstar
from tests.support.main_job import LIMIT_S, PRM, MainJob
from tests.support.serving import answered, asked, served

QUESTIONS = 8
PIXELS = {"use_fast": False}
"""The image backend of the run, which transformers and vLLM would choose otherwise."""
AS_PRM = (
    "--runner", "pooling", "--convert", "classify", "--pooler-config",
    '{"task": "token_classify", "tok_pooling_type": "ALL", "use_activation": false}',
    "--no-enable-chunked-prefill", "--max-num-batched-tokens", "2048",
)  # fmt: skip

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2 * LIMIT_S)]


@dataclass(frozen=True)
class Answer:
    """What was asked, the images it was asked with, and the run's greedy response."""

    prompt: str
    images: list[bytes]
    row: Rollout


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MainJob]:
    """A finished run with a process reward model, whose head sees the hidden state alone."""
    job = MainJob(tmp_path_factory.mktemp("exported"), [*PRM, "prm.log_likelihood=false"])
    try:
        job.finish()
        yield job
    finally:
        job.kill()


@pytest.fixture(scope="module")
def answers(job: MainJob) -> list[Answer]:
    """Test questions and the greedy answers that the run's final policy gave."""
    run = StoredRun(job.store, "tiny")
    purpose = f"evaluate/{named_policies(run.state)['final'].version}/test/greedy"
    rows = [
        row
        for (of, _), facts in run.shard_facts.items()
        if of == purpose
        for row in read_rows(job.store, facts["rollout"], Rollout)
        if row.finish == "stop"
    ]
    assert len(rows) >= QUESTIONS
    ask = run.spec.config.prompt.templates.text
    return [
        Answer(ask(query), [job.store.get(f"images/{sha}") for sha in query.images], row)
        for row in rows[:QUESTIONS]
        for query in [run.spec.by_hash[row.query]]
    ]


def exported(job: MainJob, folder: Path, *what: str) -> Path:
    done = mstar("export", *what, job.out / "tiny", "--to", folder)
    assert done.exit_code == 0, done.output
    return folder


def read_by_transformers(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=False)
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False, **PIXELS)
    return model.eval(), processor


def inputs_of(processor: Any, images: list[bytes], *turns: dict[str, Any], **how: Any) -> Any:
    text = processor.apply_chat_template([*turns], tokenize=False, **how)
    pictures = [Image.open(io.BytesIO(image)).convert("RGB") for image in images]
    return processor(text=text, images=pictures, return_tensors="pt")


def user(question: str, images: list[bytes]) -> dict[str, Any]:
    shown = [{"type": "image"} for _ in images]
    return {"role": "user", "content": [*shown, {"type": "text", "text": question}]}


def test_the_policy_answers_as_it_did_in_the_run(
    job: MainJob, answers: list[Answer], tmp_path: Path
) -> None:
    folder = exported(job, tmp_path / "policy", "policy")
    model, processor = read_by_transformers(folder)
    for one in answers:
        made = inputs_of(processor, one.images, user(one.prompt, one.images),
                         add_generation_prompt=True)  # fmt: skip
        assert prompt_hash(made["input_ids"][0].tolist()) == one.row.prompt_sha256
        given = model.generate(**made, max_new_tokens=96, do_sample=False)
        ids = given[0, made["input_ids"].shape[1] :].tolist()
        assert tuple(ids) == one.row.token_ids

    kwargs = ["--mm-processor-kwargs", json.dumps(PIXELS)]
    with served(folder, tmp_path / "serve.log", kwargs) as client:
        for one in answers:
            answer = answered(client, "/v1/chat/completions", {
                "messages": [asked(one.prompt, one.images)], "temperature": 0, "max_tokens": 96,
                "return_token_ids": True,
            })  # fmt: skip
            (choice,) = answer["choices"]
            assert prompt_hash(answer["prompt_token_ids"]) == one.row.prompt_sha256
            assert tuple(choice["token_ids"]) == one.row.token_ids
            assert choice["message"]["content"] == one.row.text


def test_the_process_reward_model_scores_the_same_in_both(
    job: MainJob, answers: list[Answer], tmp_path: Path
) -> None:
    folder = exported(job, tmp_path / "prm", "prm")
    model, processor = read_by_transformers(folder)
    with safe_open(folder / "model.safetensors", framework="pt") as held:
        head_1_H = held.get_tensor("score.weight")
    assert head_1_H.abs().max() > 0
    options = [*AS_PRM, "--mm-processor-kwargs", json.dumps(PIXELS)]
    with served(folder, tmp_path / "serve.log", options) as client:
        for one in answers:
            said = {"role": "assistant", "content": one.row.text}
            made = inputs_of(processor, one.images, user(one.prompt, one.images), said,
                             continue_final_message=True)  # fmt: skip
            with torch.no_grad():
                hidden_L_H = model.base_model(**made).last_hidden_state[0]
            ours = (hidden_L_H @ head_1_H.T).squeeze(-1)
            answer = answered(client, "/pooling", {
                "messages": [asked(one.prompt, one.images), said], "task": "token_classify",
                "use_activation": False, "add_generation_prompt": False,
                "continue_final_message": True,
            })  # fmt: skip
            (scored,) = answer["data"]
            theirs = torch.tensor(scored["data"]).squeeze(-1)
            assert theirs.shape == ours.shape
            assert (theirs - ours).abs().max() < 1e-4


def test_what_was_selected_is_data_for_others(job: MainJob, tmp_path: Path) -> None:
    """Each form is read as published data of that form, with the questions' own images."""
    import datasets

    count = len(exported(job, tmp_path / "all.jsonl", "selected").read_text().splitlines())
    rows = datasets.load_dataset(
        "parquet", cache_dir=str(tmp_path / "cache"), split="train",
        data_files=str(exported(job, tmp_path / "all.parquet", "selected", "--as", "parquet")),
    )  # fmt: skip
    assert len(rows) == count
    assert rows[0]["images"][0].size == (32, 32)
    assert rows[0]["response"]
    llava = exported(job, tmp_path / "llava", "selected", "--as", "llava")
    turns = json.loads((llava / "data.json").read_text())
    assert len(turns) == count
    assert all((llava / row["image"]).is_file() for row in turns)
    verl = exported(job, tmp_path / "verl.parquet", "selected", "--as", "verl")
    assert pq.read_table(verl).num_rows == count
    for path, form in ((llava / "data.json", "llava"), (verl, "verl")):
        inspected = mstar("data", "inspect", path)
        assert inspected.exit_code == 0, inspected.output
        assert form in inspected.output
        assert "cannot be used" not in inspected.output


def test_monte_carlo_labels_are_in_the_raw_form_of_visualprm(job: MainJob, tmp_path: Path) -> None:
    folder = exported(job, tmp_path / "labels", "labels")
    rows = [json.loads(line) for line in (folder / "labels.jsonl").read_text().splitlines()]
    assert rows
    for row in rows:
        assert (folder / row["image"]).is_file()
        assert row["question"]
        assert row["answer"]
        for step in row["steps_with_score"]:
            assert step["step"]
            assert 0 <= step["num_mc_correct"] <= step["num_mc_total"]
            if step["num_mc_total"]:
                assert step["score"] == step["num_mc_correct"] / step["num_mc_total"]
