"""Plans: slices cover the pool evenly, keys are the content, seeds are all distinct."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.generation.shards import (
    EngineIdentity,
    SamplingParams,
    ShardSpec,
    sample_seed,
    shard_specs,
)
from pipeline.generation.slices import labelled, shuffled, slice_of, subset
from pipeline.prompts import PromptTemplates
from pipeline.query import Query
from pipeline.stages.grade import grade_key
from pipeline.stages.select import select_key

ENGINE = EngineIdentity("fake", "1", "float32", 1, 512)

SAMPLING = SamplingParams(samples=4, temperature=1.0, top_p=1.0, max_new_tokens=64)


def query(number: int, **changes: object) -> Query:
    made = Query(f"q{number}", (), f"What is {number}?", None, str(number), "number")
    return replace(made, **changes)  # type: ignore[arg-type]


def specs(queries: list[Query], **changes: object) -> list[ShardSpec]:
    options: dict[str, object] = {
        "policy": "p0",
        "sampling": SAMPLING,
        "engine": ENGINE,
        "run_seed": 0,
        "shard_queries": 3,
        "templates": PromptTemplates(),
    }
    return shard_specs("evolve/0", queries, **(options | changes))  # type: ignore[arg-type]


@given(
    st.integers(1, 60),
    st.sampled_from([0.0625, 0.125, 0.25, 0.3, 1 / 3, 0.5, 0.9, 1.0]),
    st.integers(1, 40),
    st.integers(0, 5),
    st.booleans(),
)
def test_slices_traverse_the_pool_again_and_again(
    size: int, interval: float, iterations: int, seed: int, reshuffle: bool
) -> None:
    pool = [f"h{i}" for i in range(size)]
    slices = [slice_of(pool, t, interval, seed, reshuffle=reshuffle) for t in range(iterations)]
    for drawn in slices:
        assert len(set(drawn)) == len(drawn)
        assert abs(len(drawn) - size * interval) < 1.001
    order = shuffled(pool, seed, "slices")
    flat = [item for drawn in slices for item in drawn]
    if not reshuffle:
        assert flat == [order[i % size] for i in range(len(flat))]
    assert flat[:size] == order[: len(flat)], "the first pass is that of a run without new orders"
    for begin in range(0, len(flat) - size + 1, size):
        assert sorted(flat[begin : begin + size]) == sorted(pool), "a pass visits each once"
    counts = Counter(flat)
    assert max(counts[item] for item in pool) - min(counts[item] for item in pool) <= 1


def test_a_quarter_each_is_the_whole_pool_in_four() -> None:
    pool = [f"h{i}" for i in range(100)]
    four = [item for t in range(4) for item in slice_of(pool, t, 0.25, 0)]
    assert sorted(four) == sorted(pool)
    again = [item for t in range(4, 8) for item in slice_of(pool, t, 0.25, 0)]
    assert sorted(again) == sorted(pool)
    assert again != four, "the next pass has an order of its own"
    assert slice_of(pool, 4, 0.25, 0, reshuffle=False) == slice_of(pool, 0, 0.25, 0)
    assert slice_of(pool, 0, 0.25, 1) != slice_of(pool, 0, 0.25, 0)


@given(st.permutations([f"h{i}" for i in range(12)]), st.integers(0, 3))
def test_order_does_not_depend_on_the_order_of_the_file(pool: list[str], seed: int) -> None:
    assert slice_of(pool, 2, 0.25, seed) == slice_of(sorted(pool), 2, 0.25, seed)


def test_seeds_are_distinct_and_fit_the_engine() -> None:
    seeds = {
        sample_seed(run, policy, f"q{q}", k)
        for run in range(3)
        for policy in ("a", "b")
        for q in range(50)
        for k in range(16)
    }
    assert len(seeds) == 3 * 2 * 50 * 16
    assert all(0 <= seed < 2**62 for seed in seeds)
    assert sample_seed(0, "a", "q", 1) != sample_seed(0, "a", "q", 0) + 1


@given(st.integers(0, 40), st.integers(1, 9))
def test_shards_hold_whole_groups_in_order(count: int, shard_queries: int) -> None:
    queries = [query(i) for i in range(count)]
    made = specs(queries, shard_queries=shard_queries)
    assert [spec.index for spec in made] == list(range(len(made)))
    assert [q for spec in made for q in spec.queries_Q] == [q.content_hash for q in queries]
    assert all(1 <= len(spec.queries_Q) <= shard_queries for spec in made)
    assert sum(spec.rows for spec in made) == count * SAMPLING.samples


def test_the_key_is_the_content_and_not_the_place() -> None:
    (spec,) = specs([query(1), query(2)])
    assert replace(spec, purpose="evolve/9", index=4).key == spec.key
    queries = [query(1), query(2)]
    others = [
        specs(queries, policy="p1"),
        specs(queries, run_seed=1),
        specs(queries, sampling=replace(SAMPLING, samples=5)),
        specs(queries, sampling=replace(SAMPLING, temperature=0.5)),
        specs(queries, sampling=replace(SAMPLING, top_p=0.9)),
        specs(queries, sampling=replace(SAMPLING, max_new_tokens=65)),
        specs(queries, engine=replace(ENGINE, precision="bfloat16")),
        specs(queries, engine=replace(ENGINE, version="2")),
        specs(queries, engine=replace(ENGINE, max_model_len=1024)),
        specs(queries, prompt="warmup"),
        specs(queries, prompt="warmup", templates=PromptTemplates(warmup="{question} {gold}")),
        specs([query(2), query(1)]),
        specs([query(1), query(2, choices=("x", "y"))]),
        specs([query(1), query(2, images=("0" * 64,))]),
    ]
    keys = [made[0].key for made in others]
    assert len({*keys, spec.key}) == len(others) + 1


def test_a_corrected_answer_keeps_the_rollouts_and_drops_the_grades() -> None:
    old, new = [query(1)], [query(1, answer="one")]
    assert specs(old)[0].key == specs(new)[0].key
    assert grade_key("shards/x", old, "g1") != grade_key("shards/x", new, "g1")
    assert grade_key("shards/x", old, "g1") != grade_key("shards/x", old, "g2")
    assert grade_key("shards/x", old, "g1") != grade_key("shards/y", old, "g1")
    # The warm-up's prompt holds the answer, so there the rollouts go too.
    assert specs(old, prompt="warmup")[0].key != specs(new, prompt="warmup")[0].key


def test_selection_keys_hold_the_rule_and_the_inputs() -> None:
    base = select_key("r", "g", {"name": "random_k", "k": 2}, 0, "question")
    for other in (
        select_key("r2", "g", {"name": "random_k", "k": 2}, 0, "question"),
        select_key("r", "g2", {"name": "random_k", "k": 2}, 0, "question"),
        select_key("r", "g", {"name": "random_k", "k": 3}, 0, "question"),
        select_key("r", "g", {"name": "random_k", "k": 2}, 1, "question"),
        select_key("r", "g", {"name": "random_k", "k": 2}, 0, "warmup"),
    ):
        assert other != base


def test_greedy_shards_are_the_same_for_every_seed() -> None:
    greedy = SamplingParams(1, 0.0, 1.0, 64)
    assert (
        specs([query(1)], sampling=greedy, run_seed=0)[0].key
        == specs([query(1)], sampling=greedy, run_seed=5)[0].key
    )


def test_warmup_refuses_a_query_without_an_answer() -> None:
    with pytest.raises(ValueError, match="labelled"):
        specs([query(1, answer=None, unlabelled=True)], prompt="warmup")


def test_pools_are_labelled_distinct_and_the_same_for_every_order() -> None:
    queries = [query(i) for i in range(20)]
    hidden = [query(30, unlabelled=True), query(31, answer=None)]
    assert labelled(queries + hidden) == queries
    drawn = subset([*queries, query(3, query_id="again")], 8)
    assert len(drawn) == 8
    assert drawn == subset(list(reversed(queries)), 8)
    assert len(subset([*queries, query(3, query_id="again")], None)) == 20
