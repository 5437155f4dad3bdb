"""Learning jobs over a scripted group: every step once, whatever is in memory, dies or is lost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from actors.model.images import StoreImages
from actors.model.value_head import read_head
from actors.training.checkpoint_tree import Checkpoint
from actors.training.rows import RowMaker
from actors.training.source import Means, policy_folder
from pipeline.errors import ArtifactLost
from pipeline.prompts import PromptTemplates, prompt_hash, question_text
from pipeline.records import StepValues
from pipeline.refs import PolicyRef
from pipeline.storage.artifacts import put_content
from pipeline.storage.models import publish_folder
from pipeline.storage.parquet import to_parquet
from pipeline.storage.store import open_store
from pipeline.storage.trees import check_tree, quiet, scan_tree
from pipeline.training.job import (
    LearnDone,
    LearnProgress,
    LearnSaved,
    PrmLearning,
)
from pipeline.training.job import LearnFailed as Failed
from tests.support.learner_bench import SIZES, Bench, FakeGroup, FakeProcessor, done, run
from tests.support.models import make_policy
from tests.support.scripted import make_config


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, make_config(learn={**SIZES, "checkpoint_steps": 2}))


def test_a_job_gives_checkpoints_a_policy_and_its_figures(bench: Bench) -> None:
    learner = bench.learner()
    events = run(learner, bench.job("evolve/0", [bench.selection(0, 10), bench.selection(10, 3)]))
    end = done(events)
    # 13 rows in batches of 4, twice.
    assert end.steps == 8
    assert end.checkpoint.step == end.checkpoint.cursor == 8
    assert end.rows == 26
    assert end.loss == pytest.approx(0.5)
    assert [e.checkpoint.cursor for e in events if isinstance(e, LearnSaved)] == [2, 4, 6]
    heard = [e for e in events if isinstance(e, LearnProgress)]
    assert [e.doing for e in heard if e.doing][:2] == [
        "fetching the policy and the selected responses",
        "starting the learner: 1 ranks load the policy",
    ]
    curve = [point for e in heard for point in e.curve]
    assert [point.step for point in curve] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [point.grad_norm for point in curve] == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    assert {point.loss for point in curve} == {0.5}
    moves = [e for e in heard if not e.doing]
    assert [e.steps for e in moves] == [0, 1, 2, 2, 3, 4, 4, 5, 6, 6, 7, 8]
    assert [e.loss for e in moves][:3] == [None, None, 0.5]
    assert {e.steps_total for e in moves} == {8}
    assert bench.store.exists(f"{end.policy.path}/model.json")
    learner.close()
    assert bench.groups[0].closed


def test_the_next_job_goes_on_in_place(bench: Bench) -> None:
    learner = bench.learner()
    first = done(run(learner, bench.job("evolve/0", [bench.selection(0, 8)])))
    second = bench.job(
        "evolve/1", [bench.selection(8, 8)], start=first.checkpoint, policy=first.policy
    )
    end = done(run(learner, second))
    assert end.checkpoint.step == 8
    assert len(bench.groups) == 1
    assert "reset" not in bench.groups[0].log
    learner.close()
    # A fresh learner that reads the checkpoint ends with the same bytes.
    other = bench.learner("b")
    again = done(run(other, second))
    assert (again.policy, again.checkpoint) == (end.policy, end.checkpoint)
    other.close()


def test_a_group_that_goes_on_for_long_can_still_publish(bench: Bench) -> None:
    learner = bench.learner()
    end: LearnDone | None = None
    for number in range(5):
        job = bench.job(f"evolve/{number}", [bench.selection(0, 6)])
        if end is not None:
            job = replace(job, start=end.checkpoint, policy=end.policy)
        end = done(run(learner, job))
    assert len(bench.groups) == 1


def test_another_start_resets_the_group(bench: Bench) -> None:
    learner = bench.learner()
    data = [bench.selection(0, 8)]
    first = done(run(learner, bench.job("warmup/0", data)))
    fresh = bench.job("evolve/0", data, policy=first.policy)
    end = done(run(learner, fresh))
    assert bench.groups[0].log.count("reset") == 1
    assert end.checkpoint.step == 4
    # The same start with another learning rate is not what is in memory either.
    changed = bench.job("evolve/1", data, start=end.checkpoint, learning_rate=1e-4)
    run(learner, changed)
    assert bench.groups[0].log.count("reset") == 2
    assert bench.groups[0].settings.learning_rate == 1e-4
    learner.close()


@pytest.mark.parametrize("dies_at", [0, 1, 2, 3, 5, 7])
def test_a_job_whose_ranks_die_is_continued_and_ends_the_same(bench: Bench, dies_at: int) -> None:
    job = bench.job("evolve/0", [bench.selection(0, 13)])
    learner = bench.learner()
    whole = done(run(learner, job))
    learner.close()
    bench.prepare = lambda group: group.dies_at.add(dies_at) if len(bench.groups) == 2 else None
    learner = bench.learner("b")
    events = run(learner, job)
    assert isinstance(events[-1], Failed)
    assert events[-1].kind == "infrastructure"
    assert bench.groups[1].closed
    saved = [event.checkpoint for event in events if isinstance(event, LearnSaved)]
    end = done(run(learner, job, saved[-1] if saved else None))
    assert (end.policy, end.checkpoint, end.rows) == (whole.policy, whole.checkpoint, whole.rows)
    assert (end.steps, end.tokens, end.loss) == (whole.steps, whole.tokens, whole.loss)
    learner.close()


def test_the_guard_compares_the_first_batch(bench: Bench) -> None:
    job = bench.job("evolve/0", [bench.selection(0, 8)], check_logprobs=True)
    learner = bench.learner()
    assert done(run(learner, job)).logprob_deviation == pytest.approx(0.0, abs=1e-6)
    learner.close()

    def shift(group: FakeGroup) -> None:
        group.offset = 0.2

    bench.prepare = shift
    learner = bench.learner("b")
    failed = run(learner, job)[-1]
    assert isinstance(failed, Failed)
    assert failed.kind == "user"
    assert "0.2 nats" in failed.reason
    assert "train" not in bench.groups[1].log
    learner.close()


def test_a_full_disk_is_no_death_of_the_learner_and_with_room_the_job_goes_on(bench: Bench) -> None:
    """A rank's library wraps the system's error; here it is raised where the driver hears it."""
    job = bench.job("evolve/0", [bench.selection(0, 13)])
    learner = bench.learner()
    whole = done(run(learner, job))
    learner.close()

    def full(cursor: dict[str, Any]) -> Checkpoint:
        raise ValueError("I/O error: No space left on device (os error 28)")

    def fill(group: FakeGroup) -> None:
        if len(bench.groups) == 2:
            group.checkpoint = full  # type: ignore[method-assign]

    bench.prepare = fill
    learner = bench.learner("b")
    failed = run(learner, job)[-1]
    assert isinstance(failed, Failed)
    assert failed.kind == "user"
    assert "No space left on device" in failed.reason
    assert "Free some space, then start the same command again" in failed.reason
    end = done(run(learner, job))
    assert (end.policy, end.checkpoint) == (whole.policy, whole.checkpoint)
    learner.close()


def test_what_the_guard_measured_survives_an_interruption(bench: Bench) -> None:
    job = bench.job("evolve/0", [bench.selection(0, 13)], check_logprobs=True)

    def shift(group: FakeGroup) -> None:
        if len(bench.groups) == 1:
            group.offset, group.dies_at = 0.01, {5}

    bench.prepare = shift
    learner = bench.learner()
    saved = [event.checkpoint for event in run(learner, job) if isinstance(event, LearnSaved)]
    end = done(run(learner, job, saved[-1]))
    assert end.logprob_deviation == pytest.approx(0.01, abs=1e-6)
    assert end.checkpoint.logprob_deviation is None
    learner.close()


def test_a_response_to_another_prompt_is_never_trained_on(bench: Bench) -> None:
    learner = bench.learner()
    failed = run(learner, bench.job("evolve/0", [bench.selection(0, 4, "f" * 64)]))[-1]
    assert isinstance(failed, Failed)
    assert failed.kind == "user"
    assert "another processor, chat template or image" in failed.reason
    # Warm-up chains come from another prompt on purpose.
    done(run(learner, bench.job("warmup/0", [bench.selection(0, 4, "")])))
    learner.close()


def test_rows_know_their_prompts_from_the_rollouts_and_nothing_is_processed_again(
    bench: Bench,
) -> None:
    """Only a warm-up chain, which was sampled from another prompt, has to be."""
    processor = FakeProcessor()
    maker = RowMaker(bench.store, bench.program.by_hash, PromptTemplates())
    taken: Any = processor
    rows = maker.rows(taken, (bench.selection(0, 6), bench.selection(6, 3))).rows
    assert processor.made == 0
    again = maker.rows(taken, (bench.selection(0, 9, ""),)).rows
    assert processor.made == 9
    assert rows == again


def test_what_is_lost_is_named(bench: Bench) -> None:
    learner = bench.learner()
    missing = f"shards/select/k/{'0' * 64}.parquet"
    failed = run(learner, bench.job("evolve/0", [missing]))[-1]
    assert isinstance(failed, Failed)
    assert (failed.kind, failed.path) == ("lost", missing)
    gone = PolicyRef("policy-0", f"policies/model/{'0' * 64}")
    data = [bench.selection(0, 4)]
    failed = run(learner, bench.job("evolve/0", data, policy=gone))[-1]
    assert isinstance(failed, Failed)
    assert (failed.kind, failed.path) == ("lost", gone.path)
    learner.close()


def test_an_image_that_a_rank_cannot_read_is_named(bench: Bench) -> None:
    """And the ranks' own image source says which."""
    sha = "1" * 64

    def lose(group: FakeGroup) -> None:
        def train(*args: Any, **named: Any) -> Any:
            raise ArtifactLost(f"images/{sha}", "it is corrupt")

        group.train = train  # type: ignore[method-assign]

    bench.prepare = lose
    learner = bench.learner()
    failed = run(learner, bench.job("evolve/0", [bench.selection(0, 4)]))[-1]
    assert isinstance(failed, Failed)
    assert (failed.kind, failed.path) == ("lost", f"images/{sha}")
    learner.close()
    store = open_store(bench.folder / "store")
    store.put(f"images/{sha}", b"not what hashes to it")
    with pytest.raises(ArtifactLost) as caught:
        StoreImages(store)(sha)
    assert caught.value.path == f"images/{sha}"


def test_max_steps_ends_a_job_in_the_middle_of_an_epoch(bench: Bench) -> None:
    learner = bench.learner()
    data = [bench.selection(0, 13)]
    end = done(run(learner, bench.job("control/0", data, epochs=None, max_steps=6)))
    assert end.steps == 6
    assert end.rows == 13 + 8
    learner.close()


# --- process reward models -----------------------------------------------------------------------

SOFT = PrmLearning("soft", "bce", ("*vision*",))


def step_values(bench: Bench, *held_out: bool) -> str:
    """Labelled responses to one query, stored; whether each is held out."""
    query = bench.program.by_hash[bench.program.pool[0]]
    prompt = tuple(map(ord, f"<{question_text(query)}>"))
    rows = [
        StepValues(
            query=query.content_hash, query_id=query.query_id, sample_index=i, rollout_shard="r",
            prompt_sha256=prompt_hash(prompt), prompt_tokens=len(prompt), correct=True,
            held_out=out, token_ids=tuple(range(10, 22)), step_ends=(3, 7),
            values=(0.75, 0.0), completions=(4, 4),
        )
        for i, out in enumerate(held_out)
    ]  # fmt: skip
    return put_content(bench.store, "labels", "k", to_parquet(rows, StepValues), "parquet")


def test_rows_of_step_values_hold_one_token_more_than_their_last_step(bench: Bench) -> None:
    path = step_values(bench, False, True, False)
    processor: Any = FakeProcessor()
    maker = RowMaker(
        bench.store, bench.program.by_hash, PromptTemplates(), lambda folder: processor
    )
    soft = maker.rows(processor, (path,), SOFT).rows
    assert len(soft) == 2
    assert soft[0].token_ids_T == tuple(range(10, 18))
    assert (soft[0].step_ends_S, soft[0].targets_S, soft[0].units) == ((3, 7), (0.75, 0.0), 2)
    hard = maker.rows(processor, (path,), replace(SOFT, labels="hard")).rows
    assert hard[0].targets_S == (1.0, 0.0)


def test_a_prm_job_starts_from_the_policy_with_a_head(bench: Bench, tmp_path: Path) -> None:
    """The group is told the objective, and on a rank's node the policy has a head of zeros."""
    folder = make_policy(tmp_path / "policy", 0)
    (folder / "model.json").write_text('{"trained": "base"}')  # what the scripted group reads
    learner = bench.learner()
    policy = publish_folder(bench.store, folder)
    done(
        run(
            learner, bench.job("prm/0", [step_values(bench, *[False] * 6)], policy=policy, prm=SOFT)
        )
    )
    learner.close()
    (group,) = bench.groups
    assert (group.settings.objective, group.settings.frozen) == ("steps", ("*vision*",))
    means = Means(bench.store, lambda sha: b"", str(tmp_path / "node"))
    with policy_folder(means, group.source, quiet) as headed:
        assert not read_head(headed).any()
    plain = replace(group.source, head=False)
    with policy_folder(means, plain, quiet) as folder:
        assert scan_tree(folder).sha256 == policy.path[-64:]


def test_a_schedule_spans_the_job_whatever_its_rows_make_and_goes_on_in_place(
    bench: Bench,
) -> None:
    learner = bench.learner()
    shape: dict[str, Any] = {"schedule": "linear", "learning_rate": 1.0}
    job = bench.job("evolve/0", [bench.selection(0, 8)], span=(0.0, 0.5), **shape)
    events = run(learner, job)
    first = done(events)
    later = bench.job("evolve/1", [bench.selection(8, 16)], start=first.checkpoint,
                      policy=first.policy, span=(0.5, 1.0), **shape)  # fmt: skip
    events += run(learner, later)
    end = done(events[-1:])
    curve = [point for e in events if isinstance(e, LearnProgress) for point in e.curve]
    one, two = first.steps, end.steps
    wanted = [1 - 0.5 * i / one for i in range(one)] + [0.5 - 0.5 * i / two for i in range(two)]
    assert [point.learning_rate for point in curve] == pytest.approx(wanted)
    assert min(wanted) > 0
    assert len(bench.groups) == 1
    assert "reset" not in bench.groups[0].log, "another part of one schedule is no other setting"
    learner.close()


def test_a_rate_of_0_before_the_end_stops_the_job_before_its_first_step(bench: Bench) -> None:
    learner = bench.learner()
    job = bench.job("evolve/0", [bench.selection(0, 13)], schedule="linear", schedule_steps=5)
    failed = run(learner, job)[-1]
    assert isinstance(failed, Failed)
    assert "the learning rate is 0 for 3 of 8 steps" in failed.reason
    assert "train" not in bench.groups[0].log
    learner.close()


def test_a_checkpoint_is_named_when_it_is_complete_and_training_does_not_wait(bench: Bench) -> None:
    """Where it is still on its way when the next one is written, that one waits for it."""

    def slow(group: FakeGroup) -> None:
        group.slow = True

    bench.prepare = slow
    learner = bench.learner()
    events = run(learner, bench.job("evolve/0", [bench.selection(0, 13)]))
    saved = [event.checkpoint for event in events if isinstance(event, LearnSaved)]
    assert [checkpoint.cursor for checkpoint in saved] == [2, 4, 6]
    assert bench.groups[0].log == ["train"] * 2 + ["settle", "train"] * 2 + ["settle"] * 2
    for checkpoint in [*saved, done(events).checkpoint]:
        assert check_tree(bench.store, checkpoint.path) == []
        assert checkpoint.path == f"checkpoints/learner/{checkpoint.sha256}"


def test_weights_alone_begin_a_new_optimizer_and_a_restart_inside_the_job_does_not(
    bench: Bench,
) -> None:
    learner = bench.learner()
    first = done(run(learner, bench.job("evolve/0", [bench.selection(0, 8)])))
    job = bench.job("evolve/1", [bench.selection(0, 13)], start=first.checkpoint,
                    policy=first.policy, inherit="weights")  # fmt: skip
    events = run(learner, job)
    whole = done(events)
    assert bench.groups[0].log.count("reset") == 1, "what is in memory has moments"
    assert whole.checkpoint.step == whole.steps, "counted from the new optimizer"
    saved = next(event.checkpoint for event in events if isinstance(event, LearnSaved))
    learner.close()
    other = bench.learner("b")
    again = done(run(other, job, saved))
    assert bench.groups[-1].settings.inherit == "all", "inside the job everything goes on"
    assert (again.policy, again.checkpoint) == (whole.policy, whole.checkpoint)
    other.close()


def test_gold_answers_are_trained_on_where_a_job_has_them(bench: Bench) -> None:
    names = list(bench.program.by_hash)[:5]
    gold = tuple((name, f"# Answer\n\n{place}") for place, name in enumerate(names))
    learner = bench.learner()
    end = done(run(learner, bench.job("evolve/0", [], gold=gold)))
    assert (end.rows, end.steps) == (10, 4), "five answers, in batches of four, twice"
    assert end.logprob_deviation is None
    learner.close()
    made = RowMaker(bench.store, bench.program.by_hash, PromptTemplates())
    taken: Any = FakeProcessor()
    rows = made.gold(taken, gold).rows
    assert bytes(rows[3].token_ids_T) == b"# Answer\n\n3\0"
    assert rows[3].prompt == f"<{bench.program.by_hash[names[3]].question}>"
