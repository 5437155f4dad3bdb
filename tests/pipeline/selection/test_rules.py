"""Selection against a brute-force reference, and the traps of the paper's section 7."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.selection.coverage import Coverage, coverage
from pipeline.selection.rules import Rule, dedup, select
from tests.support.rows import Row


@st.composite
def shards(draw: st.DrawFn) -> tuple[list[Row], list[str], list[float]]:
    """A shard in which texts, scores and outcomes often coincide; equal texts grade equally."""
    rows, outcomes, scores = [], [], []
    for number in range(draw(st.integers(1, 3))):
        for index in range(draw(st.integers(0, 8))):
            text = draw(st.sampled_from("abcdef"))
            rows.append(
                Row(f"q{number}", index, text, draw(st.sampled_from(["stop", "stop", "length"])))
            )
            outcomes.append(
                "correct" if text in "abcd" else draw(st.sampled_from(["wrong", "unparsed"]))
            )
            scores.append({"a": 0.9, "b": 0.5, "c": 0.5, "d": 0.1, "e": 1.0, "f": 0.0}[text])
    return rows, outcomes, scores


def reference_candidates(rows: list[Row], outcomes: list[str], name: str) -> list[int]:
    """By definition: no other eligible sample of the query with that text has a lower index."""
    able = [i for i, row in enumerate(rows) if outcomes[i] == "correct" and row.finish == "stop"]
    return [
        i
        for i in able
        if rows[i].query == name
        and not any(
            rows[j].query == name
            and rows[j].text == rows[i].text
            and rows[j].sample_index < rows[i].sample_index
            for j in able
        )
    ]


def reference_top_k(
    rows: list[Row], outcomes: list[str], scores: list[float], k: int
) -> set[tuple[str, int]]:
    """Of all subsets of the right size, the one that no swap improves (index breaks ties)."""
    kept: set[tuple[str, int]] = set()
    for name in {row.query for row in rows}:
        pool = reference_candidates(rows, outcomes, name)
        size = min(k, len(pool))
        best = max(
            itertools.combinations(pool, size),
            key=lambda chosen: sorted(
                ((scores[i], -rows[i].sample_index) for i in chosen), reverse=True
            ),
        )
        kept |= {(name, rows[i].sample_index) for i in best}
    return kept


def names(rows: list[Row]) -> set[tuple[str, int]]:
    return {(row.query, row.sample_index) for row in rows}


@given(shards(), st.integers(1, 4))
def test_top_k_equals_brute_force(shard: tuple[list[Row], list[str], list[float]], k: int) -> None:
    rows, outcomes, scores = shard
    kept = select(rows, outcomes, scores, Rule("top_k", k=k))
    assert names(kept) == reference_top_k(rows, outcomes, scores, k)


@given(shards(), st.sampled_from([0.0, 0.1, 0.5, 0.9]))
def test_all_correct_and_threshold_equal_brute_force(
    shard: tuple[list[Row], list[str], list[float]], alpha: float
) -> None:
    rows, outcomes, scores = shard
    able = [
        i for name in {r.query for r in rows} for i in reference_candidates(rows, outcomes, name)
    ]
    everything = select(rows, outcomes, None, Rule("all_correct"))
    assert names(everything) == {(rows[i].query, rows[i].sample_index) for i in able}
    above = select(rows, outcomes, scores, Rule("threshold", threshold=alpha))
    assert names(above) == {
        (rows[i].query, rows[i].sample_index) for i in able if scores[i] > alpha
    }


@given(shards(), st.integers(1, 4), st.integers(0, 3), st.randoms(use_true_random=False))
def test_what_is_kept_does_not_depend_on_the_order_of_rows(
    shard: tuple[list[Row], list[str], list[float]], k: int, seed: int, random: object
) -> None:
    rows, outcomes, scores = shard
    order = list(range(len(rows)))
    random.shuffle(order)  # type: ignore[attr-defined]
    for name in ("all_correct", "random_k", "threshold", "top_k"):
        rule = Rule(name, k=k)
        straight = select(rows, outcomes, scores, rule, seed=seed)
        mixed = select(
            [rows[i] for i in order],
            [outcomes[i] for i in order],
            [scores[i] for i in order],
            rule,
            seed=seed,
        )
        assert names(straight) == names(mixed)
        assert len(straight) == len(names(straight))


@given(shards(), st.integers(1, 4), st.integers(0, 3))
def test_random_k_keeps_as_many_as_top_k_and_only_candidates(
    shard: tuple[list[Row], list[str], list[float]], k: int, seed: int
) -> None:
    rows, outcomes, scores = shard
    drawn = select(rows, outcomes, None, Rule("random_k", k=k), seed=seed)
    top = select(rows, outcomes, scores, Rule("top_k", k=k))
    everything = names(select(rows, outcomes, None, Rule("all_correct")))
    assert names(drawn) <= everything
    assert len(drawn) == len(top)


def test_random_k_is_fair_over_seeds() -> None:
    rows = [Row("q", i, f"t{i}", seed=100 + i) for i in range(6)]
    counts = [0] * 6
    for seed in range(600):
        for row in select(rows, ["correct"] * 6, None, Rule("random_k", k=2), seed=seed):
            counts[row.sample_index] += 1
    assert sum(counts) == 1200
    assert all(150 < count < 250 for count in counts)


def test_a_truncated_response_is_never_kept_and_does_not_shadow_a_complete_one() -> None:
    rows = [Row("q", 0, "same", "length"), Row("q", 1, "same"), Row("q", 2, "other", "length")]
    for name in ("all_correct", "random_k", "threshold", "top_k"):
        kept = select(rows, ["correct"] * 3, [1.0, 0.9, 1.0], Rule(name, k=2))
        assert names(kept) == {("q", 1)}


def test_ties_go_to_the_lower_index_and_output_is_by_index() -> None:
    rows = [Row("q", i, f"t{i}") for i in (3, 1, 2, 0)]
    kept = select(rows, ["correct"] * 4, [0.5, 0.5, 0.5, 0.4], Rule("top_k", k=2))
    assert [row.sample_index for row in kept] == [1, 2]


def test_a_missing_or_broken_score_is_an_error_and_never_a_zero() -> None:
    rows = [Row("q", 0, "a"), Row("q", 1, "b")]
    for bad in (None, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="has no score"):
            select(rows, ["correct", "correct"], [0.1, bad], Rule("top_k"))
    with pytest.raises(ValueError, match="has no score"):
        select(rows, ["correct", "correct"], None, Rule("top_k"))
    # A wrong response needs no score, and a rule without ranking needs none at all.
    assert len(select(rows, ["correct", "wrong"], [0.1, None], Rule("top_k"))) == 1
    assert len(select(rows, ["correct", "correct"], None, Rule("all_correct"))) == 2


@given(shards())
def test_dedup_keeps_one_of_each_text(shard: tuple[list[Row], list[str], list[float]]) -> None:
    rows, _, _ = shard
    kept = dedup(rows)
    assert len(kept) == len({(row.query, row.text) for row in rows})
    for row in kept:
        twins = [r.sample_index for r in rows if (r.query, r.text) == (row.query, row.text)]
        assert row.sample_index == min(twins)


@given(shards(), shards())
def test_coverage_counts_and_adds(
    first: tuple[list[Row], list[str], list[float]],
    second: tuple[list[Row], list[str], list[float]],
) -> None:
    total = Coverage()
    for rows, outcomes, _ in (first, second):
        kept = select(rows, outcomes, None, Rule("random_k", k=2))
        counted = coverage(rows, outcomes, kept)
        assert counted.samples == len(rows)
        assert counted.correct + counted.wrong + counted.unparsed + counted.timeout == len(rows)
        assert counted.kept <= counted.candidates <= counted.correct
        assert counted.queries_kept <= counted.queries_correct <= counted.queries
        total = total + counted
    assert total.samples == len(first[0]) + len(second[0])
    assert Coverage(**total.to_dict()) == total


def test_a_rule_is_known_by_what_it_reads() -> None:
    assert Rule("all_correct", k=2).identity == Rule("all_correct", k=4).identity
    assert Rule("top_k", k=2).identity != Rule("top_k", k=4).identity
    assert Rule("top_k", threshold=0.1).identity == Rule("top_k", threshold=0.2).identity


STEPPED = "a step\n\n# Answer\n\n7"


@given(st.lists(st.lists(st.sampled_from([-0.1, -0.5, -2.0]), min_size=1, max_size=4), max_size=6))
def test_what_costs_nothing_ranks_by_what_the_rollout_holds(logprobs: list[list[float]]) -> None:
    rows = [
        Row("q", index, f"{index}{STEPPED}", token_ids=(0,) * len(one), logprobs=tuple(one))
        for index, one in enumerate(logprobs)
    ]
    right = ["correct"] * len(rows)
    by_sum = sorted(rows, key=lambda row: (-sum(row.logprobs), row.sample_index))[:2]
    by_tokens = sorted(rows, key=lambda row: (len(row.token_ids), row.sample_index))[:2]
    lowest = sorted(rows, key=lambda row: (sum(row.logprobs), row.sample_index))[:2]
    for rule, wanted in (
        (Rule("top_k", 2, by="logprob"), by_sum),
        (Rule("bottom_k", 2, by="logprob"), lowest),
        (Rule("top_k", 2, by="length"), by_tokens),
    ):
        kept = select(rows, right, None, rule)
        assert {row.sample_index for row in kept} == {row.sample_index for row in wanted}
        assert not rule.by_prm
    drawn = select(rows, right, None, Rule("top_k", 2, by="random"), seed=3)
    assert drawn == select(rows, right, None, Rule("random_k", 2), seed=3)


def test_every_rule_chooses_among_the_same() -> None:
    """An answer without a step has no process reward: from version 2 on no rule keeps it."""
    rows = [Row("q", 0, "# Answer\n\n7"), Row("q", 1, STEPPED)]
    right = ["correct"] * 2
    for name in ("all_correct", "random_k"):
        assert len(select(rows, right, None, Rule(name))) == 2
        assert select(rows, right, None, Rule(name, version=2)) == rows[1:]
    assert select(rows, right, [None, 0.5], Rule("top_k", version=2)) == rows[1:]
    assert Rule("top_k", 2).identity == {"name": "top_k", "k": 2}, "earlier keys stay"
    assert Rule("top_k", 2, by="logprob", version=2).identity == {
        "name": "top_k", "k": 2, "by": "logprob", "version": 2
    }  # fmt: skip
