"""Which responses are labelled, from which prefixes, and what their steps are worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.generation.shards import EngineIdentity, SamplingParams, sample_seed
from pipeline.prm.completions import CompletionSpec, completion_specs, cut_places, reached
from pipeline.prm.labels import (
    Labelled,
    Prefix,
    Reached,
    Stop,
    Take,
    cost,
    held_out_queries,
    next_prefixes,
    pick,
    step_values,
    target,
)
from pipeline.prompts import PromptTemplates
from pipeline.query import Query
from pipeline.records import Grade, Rollout
from pipeline.responses import merged
from pipeline.storage.parquet import to_parquet

ENGINE = EngineIdentity("fake", "1", "float32", 1, 64)

SAMPLING = SamplingParams(samples=4, temperature=1.0, top_p=1.0, max_new_tokens=64)


@dataclass(frozen=True)
class Row:
    """A rollout whose tokens are its characters."""

    query: str
    sample_index: int
    text: str
    finish: str = "stop"
    prompt_sha256: str = "prompt"
    prompt_tokens: int = 5
    logprobs: tuple[float, ...] = ()

    @property
    def query_id(self) -> str:
        return f"id-{self.query}"

    @property
    def seed(self) -> int:
        return 1000 * self.sample_index + 7

    @property
    def token_ids(self) -> tuple[int, ...]:
        return tuple(map(ord, self.text))


def decode(ids: Sequence[int]) -> str:
    return "".join(map(chr, ids))


def text(*steps: str, answer: str = "7") -> str:
    return "\n\n".join([*steps, "# Answer", answer])


def asked(name: str, image: str = "") -> Query:
    return Query(
        query_id=f"id-{name}",
        images=(image or f"image-{name}",),
        question=f"Question {name}?",
        choices=None,
        answer="7",
        answer_type="number",
        unlabelled=False,
        source="test",
        split="train",
    )


def picked(
    rows: Sequence[Row], outcomes: Sequence[str], apart: set[str] | None = None, **take: int
) -> tuple[list[Labelled], dict[str, int]]:
    chosen, counts = pick(
        rows, outcomes, ["shard"] * len(rows),
        decode=decode, take=Take(**take), held_out=apart or set(), seed=3,
    )  # fmt: skip
    return chosen, counts.to_dict()


def test_only_mixed_questions_in_pairs_of_right_and_wrong() -> None:
    rows = [Row("easy", i, text("a", str(i))) for i in range(3)]
    rows += [Row("hard", i, text("a", str(i))) for i in range(3)]
    rows += [Row("mixed", i, text("a", str(i))) for i in range(6)]
    outcomes = ["correct"] * 3 + ["wrong"] * 3 + ["correct", "wrong", "correct"] + ["wrong"] * 3
    chosen, counts = picked(rows, outcomes)
    assert {row.query for row in chosen} == {"mixed"}
    assert sorted(row.correct for row in chosen) == [False, True]
    assert (counts["questions"], counts["mixed"]) == (3, 1)
    assert (counts["always_right"], counts["never_right"]) == (1, 1)
    more, _ = picked(rows, outcomes, pairs=4)
    assert sorted(row.correct for row in more) == [False, False, True, True]
    assert [row.sample_index for row in more] == sorted(row.sample_index for row in more)


def test_a_question_that_is_set_aside_gives_more_correct_responses() -> None:
    rows = [Row("q", i, text("a", str(i))) for i in range(8)]
    chosen, counts = picked(rows, ["correct"] * 5 + ["wrong"] * 3, {"q"}, held_out=3)
    assert [row.correct for row in chosen].count(True) == 3
    assert [row.correct for row in chosen].count(False) == 1
    assert all(row.held_out for row in chosen)
    assert counts["held_out"] == 4


def test_what_cannot_be_labelled_is_counted_by_name_and_never_drawn() -> None:
    rows = [
        Row("q", 0, text("a", "b")),
        Row("q", 1, text("a", "b")),  # the same text
        Row("q", 2, text("a", "c"), finish="length"),
        Row("q", 3, "# Answer\n\n7"),
        Row("q", 4, "no heading\n\nat all"),
        Row("q", 5, text("slow")),
        Row("q", 6, text("a", "d", answer="8")),
    ]
    outcomes = ["correct", "correct", "correct", "correct", "unparsed", "timeout", "wrong"]
    chosen, counts = picked(rows, outcomes, pairs=9)
    assert [row.sample_index for row in chosen] == [0, 6]
    assert (counts["cut"], counts["stepless"], counts["ungraded"]) == (1, 1, 2)
    assert decode(chosen[0].token_ids_T[: chosen[0].step_ends_S[0]]) == "a\n\n"


def test_a_response_is_labelled_whatever_became_of_its_twins() -> None:
    rows = [
        Row("q", 0, text("a", "b"), finish="length"),
        Row("q", 1, text("a", "b")),
        Row("q", 2, text("a", "c", answer="8")),
        Row("q", 3, text("a", "c", answer="8")),
    ]
    chosen, counts = picked(rows, ["correct", "correct", "timeout", "wrong"])
    assert [row.sample_index for row in chosen] == [1, 3]
    assert (counts["cut"], counts["ungraded"]) == (0, 0)


def test_the_draw_depends_on_the_seed_and_not_on_the_order_of_rows() -> None:
    rows = [Row("q", i, text("a", str(i))) for i in range(10)]
    outcomes = ["correct", "wrong"] * 5
    chosen, _ = picked(rows, outcomes)
    again, _ = picked(rows[::-1], outcomes[::-1])
    assert chosen == again
    others = {
        tuple(row.sample_index for row in pick(
            rows, outcomes, ["s"] * 10, decode=decode, take=Take(), held_out=set(), seed=seed
        )[0])
        for seed in range(20)
    }  # fmt: skip
    assert len(others) > 5


@given(st.lists(st.integers(1, 9), min_size=1, max_size=60), st.integers(1, 16))
def test_merged_steps_are_runs_of_like_length(lengths: list[int], most: int) -> None:
    ends = [sum(lengths[: i + 1]) for i in range(len(lengths))]
    found = merged(ends, most)
    assert len(found) == min(len(ends), most)
    assert found[-1] == ends[-1]
    places = [ends.index(end) for end in found]
    runs = [b - a for a, b in zip([-1, *places], places, strict=False)]
    assert max(runs) - min(runs) <= 1


def test_held_out_queries_share_no_image_with_the_others() -> None:
    queries = [asked(str(i), image=f"image-{i // 3}") for i in range(60)]
    out = held_out_queries(queries, 0.2, seed=0)
    images = {query.images[0] for query in queries if query.content_hash in out}
    assert all((query.images[0] in images) == (query.content_hash in out) for query in queries)
    assert 6 <= len(out) <= 12
    assert out == held_out_queries(queries[::-1], 0.2, seed=0)
    assert out != held_out_queries(queries, 0.2, seed=1)
    assert held_out_queries(queries[:6], 0.01, seed=0)
    assert not held_out_queries(queries[:3], 0.5, seed=0)


def labelled(*steps: str, index: int = 0, query: str = "q") -> Labelled:
    row = Row(query, index, text(*steps))
    ends = [len("\n\n".join(steps[: i + 1])) + 2 for i in range(len(steps))]
    return Labelled(
        query, row.query_id, index, "shard", "p", 5, row.token_ids, True, tuple(ends), False
    )


def run_annotation(
    responses: Sequence[Labelled], truth: dict[str, Reached], *, stop: Stop
) -> tuple[dict[Prefix, Reached], list[int]]:
    """Rounds until nothing is left, with values by prefix text."""
    found: dict[Prefix, Reached] = {}
    sizes = []
    while wanted := next_prefixes(responses, found, stop=stop):
        sizes.append(len(wanted))
        assert len(set(wanted)) == len(wanted)
        found |= {prefix: truth[decode(prefix.token_ids_T)] for prefix in wanted}
    return found, sizes


def test_shared_first_steps_are_completed_once_and_early_stop_asks_no_further() -> None:
    responses = [labelled("a", "b", "c"), labelled("a", "x", "y", index=1)]
    truth = {
        "a\n\n": Reached(3, 4),
        "a\n\nb\n\n": Reached(0, 4),
        "a\n\nb\n\nc\n\n": Reached(1, 4),
        "a\n\nx\n\n": Reached(2, 4),
        "a\n\nx\n\ny\n\n": Reached(4, 4),
    }
    found, sizes = run_annotation(responses, truth, stop="never")
    assert sizes == [5]
    assert step_values(responses[0], found, stop="never") == ((0.75, 0.0, 0.25), (4, 4, 4))
    found, sizes = run_annotation(responses, truth, stop="any")
    assert sizes == [1, 2, 1]
    assert step_values(responses[0], found, stop="any") == ((0.75, 0.0, 0.0), (4, 4, 0))
    assert step_values(responses[1], found, stop="any") == ((0.75, 0.5, 1.0), (4, 4, 4))


def test_nothing_is_imputed_inside_a_correct_response() -> None:
    right = labelled("a", "b", "c")
    wrong = replace(labelled("x", "y", index=1), correct=False)
    truth = {
        "a\n\n": Reached(3, 4),
        "a\n\nb\n\n": Reached(0, 4),
        "a\n\nb\n\nc\n\n": Reached(1, 4),
        "x\n\n": Reached(0, 4),
        "x\n\ny\n\n": Reached(1, 4),
    }
    found, sizes = run_annotation([right, wrong], truth, stop="wrong")
    assert sizes == [4], "all of the correct one at once, the first step of the wrong one"
    assert step_values(right, found, stop="wrong") == ((0.75, 0.0, 0.25), (4, 4, 4))
    assert step_values(wrong, found, stop="wrong") == ((0.0, 0.0), (4, 0)), "the second is imputed"


def test_a_step_of_which_nothing_was_graded_leaves_the_response_without_values() -> None:
    response = labelled("a", "b")
    truth = {"a\n\n": Reached(0, 0), "a\n\nb\n\n": Reached(1, 4)}
    found, _ = run_annotation([response], truth, stop="any")
    assert step_values(response, found, stop="any") is None


def test_cost_counts_prefixes_once_and_is_never_exceeded() -> None:
    responses = [labelled("a", "b", "c"), labelled("a", "x", "y", index=1)]
    told = cost(responses, 8)
    assert (told.questions, told.responses, told.steps, told.prefixes) == (1, 2, 6, 5)
    assert told.rollouts == 40
    whole = len(responses[0].token_ids_T)
    ends = responses[0].step_ends_S
    assert told.tokens == 8 * (whole - ends[0] + 2 * (whole - ends[1]) + 2 * (whole - ends[2]))
    assert "40 rollouts" in str(told)


def test_hard_labels_are_1_where_any_completion_got_there() -> None:
    assert [target(value, "hard") for value in (0.0, 0.125, 1.0)] == [0.0, 1.0, 1.0]
    assert target(0.125, "soft") == 0.125


# --- shards of completions -----------------------------------------------------------------------


def specs(
    prefixes: Sequence[Prefix], *, run_seed: int = 0, n: int = 4
) -> tuple[CompletionSpec, ...]:
    queries = {name: asked(name) for name in "qr"}
    return completion_specs(
        "prm/values/0", prefixes, queries, policy="policy-1",
        sampling=replace(SAMPLING, samples=n), engine=ENGINE, run_seed=run_seed, shard_queries=1,
        templates=PromptTemplates(),
    )  # fmt: skip


PREFIXES = [Prefix("q", (1, 2)), Prefix("r", (1, 2)), Prefix("q", (1, 2, 3))]


def test_every_completion_has_a_place_and_a_seed_of_its_own() -> None:
    made = specs(PREFIXES)
    assert [spec.queries_Q for spec in made] == [("q",), ("r",)]
    assert [spec.rows for spec in made] == [8, 4]
    parts = made[0].parts("q")
    assert [(part.first_index, part.prefix) for part in parts] == [(0, (1, 2)), (4, (1, 2, 3))]
    seeds = [
        seed
        for spec in made
        for name in spec.queries_Q
        for p in spec.parts(name)
        for seed in p.seeds
    ]
    assert len(set(seeds)) == 12
    assert not set(seeds) & {sample_seed(0, "policy-1", name, k) for name in "qr" for k in range(8)}
    assert max(seeds) < 2**62


def test_seeds_do_not_depend_on_what_else_is_asked_and_keys_do() -> None:
    alone, together = specs(PREFIXES[:1])[0], specs(PREFIXES)[0]
    assert alone.parts("q")[0] == together.parts("q")[0]
    assert (
        len(
            {
                alone.key,
                together.key,
                specs(PREFIXES, run_seed=1)[0].key,
                specs(PREFIXES, n=5)[0].key,
            }
        )
        == 4
    )
    assert specs(PREFIXES)[0].key == together.key


def test_values_are_counted_by_prefix_and_a_timeout_counts_neither_way() -> None:
    spec = specs(PREFIXES)[0]
    outcomes = [
        "correct",
        "wrong",
        "timeout",
        "unparsed",
        "correct",
        "correct",
        "correct",
        "correct",
    ]
    grades = [Grade("q", i, outcome, None) for i, outcome in enumerate(outcomes)]
    assert reached(spec, grades, ()) == {
        Prefix("q", (1, 2)): Reached(1, 3),
        Prefix("q", (1, 2, 3)): Reached(4, 4),
    }
    assert reached(spec, [], ()) == {prefix: Reached(0, 0) for prefix in PREFIXES[::2]}
    with pytest.raises(KeyError):
        reached(spec, [Grade("other", 0, "correct", None)], ())


def test_a_completion_that_was_cut_reached_nothing() -> None:
    """Its answer may be the beginning of another one: of 17, cut, there is 1."""
    spec = specs(PREFIXES)[0]
    rows = [
        Rollout(
            query="q", query_id="q", sample_index=i, seed=i, policy="policy-1", temperature=1.0,
            top_p=1.0, prompt_sha256="p", prompt_tokens=1, token_ids=(5,), logprobs=(-1.0,),
            text="# Answer\n\n1", finish="length" if i in (0, 5, 6) else "stop",
        )
        for i in range(8)
    ]  # fmt: skip
    cut = cut_places(to_parquet(rows, Rollout))
    assert cut == {("q", 0), ("q", 5), ("q", 6)}
    grades = [Grade("q", i, "correct" if i != 6 else "timeout", None) for i in range(8)]
    assert reached(spec, grades, cut) == {
        Prefix("q", (1, 2)): Reached(3, 4),
        Prefix("q", (1, 2, 3)): Reached(2, 3),
    }
