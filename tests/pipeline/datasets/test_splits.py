"""Splits: as the data says, or carved; never an image on both sides."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.datasets.dataset import Dataset, Reading, load_dataset
from pipeline.datasets.splits import (
    Carve,
    carve,
    components,
    default_size,
    mstar_split,
    shared_images,
)
from pipeline.errors import BadData
from pipeline.query import Query
from tests.support.dataset_files import GOOD, SHAS, numbered, png, refusal, write_jsonl


def test_files_named_after_splits(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "ood.jsonl", [{"question": "o", "answer": "1"}])
    write_jsonl(tmp_path / "test.jsonl", [{"question": "t", "answer": "1", "split": "test"}])
    for part in (0, 1):
        row = {"question": f"r{part}", "answer": "1"}
        write_jsonl(tmp_path / f"train-0000{part}-of-00002.jsonl", [row])
    data = load_dataset(tmp_path)
    assert [(q.split, q.question) for q in data.queries] == [
        *(("train", "r0"), ("train", "r1"), ("test", "t"), ("ood", "o"))
    ]
    write_jsonl(tmp_path / "test.jsonl", [{"question": "t", "answer": "1", "split": "ood"}])
    assert "split 'ood' in the file of 'test'" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("val.jsonl", "did you mean 'validation'?"),
        ("My data.jsonl", "named after splits"),
        ("train.parquet", "as .jsonl and as .parquet"),
    ],
)
def test_a_folder_with_a_file_that_is_no_split(tmp_path: Path, name: str, message: str) -> None:
    write_jsonl(tmp_path / "train.jsonl", [GOOD])
    (tmp_path / name).touch()
    assert message in refusal(tmp_path)


def test_names_of_older_hugging_face_data_sets(tmp_path: Path) -> None:
    for part in (0, 1):
        name = f"train-0000{part}-of-00002-abcdef012345678{part}.parquet"
        row = {"question": [f"r{part}"], "answer": ["1"]}
        pq.write_table(pa.table(row), tmp_path / name)
    pq.write_table(pa.table({"question": ["t"], "answer": ["2"]}), tmp_path / "test.parquet")
    queries = load_dataset(tmp_path).queries
    assert [(q.split, q.question) for q in queries] == [
        *(("train", "r0"), ("train", "r1"), ("test", "t"))
    ]


def test_what_other_systems_hide_in_a_folder_is_ignored(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", [{**GOOD, "images": [SHAS[0]]}])
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / f"{SHAS[0]}.png").write_bytes(png(0))
    for hidden in ("._train.jsonl", "._train.parquet", ".DS_Store", "Thumbs.db", "desktop.ini"):
        (tmp_path / hidden).write_bytes(b"\0\5\x16\7")
        (tmp_path / "images" / hidden).write_bytes(b"\0\5\x16\7")
    assert [query.split for query in load_dataset(tmp_path).queries] == ["train"]


def test_a_folder_of_data_one_level_down_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    write_jsonl(tmp_path / "data" / "train.jsonl", [GOOD])
    assert f"{tmp_path}/data holds some: give that as data.path" in refusal(tmp_path)


def test_a_folder_without_a_usual_split(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "data.jsonl", [GOOD])
    assert "none of data.jsonl is named after a split" in refusal(tmp_path)


def test_a_split_column(tmp_path: Path) -> None:
    rows = [*numbered(2, split="train"), {"question": "t", "answer": "1", "split": "test"}]
    file = write_jsonl(tmp_path / "data.jsonl", rows)
    assert [q.split for q in load_dataset(file).queries] == ["train", "train", "test"]
    file = write_jsonl(file, [*rows, {"question": "u", "answer": "1"}])
    assert f"{file}:4: no split, and other rows have one" in refusal(file)
    hidden = {"question": "u", "answer": "1", "split": "test", "unlabelled": True}
    file = write_jsonl(file, [*rows, hidden])
    assert f"{file}:4: unlabelled, in test" in refusal(file)


def test_an_image_in_two_splits_names_both_rows(tmp_path: Path) -> None:
    (tmp_path / "one.png").write_bytes(png(0))
    (tmp_path / "same bytes.png").write_bytes(png(0))
    write_jsonl(tmp_path / "train.jsonl", [*numbered(3), {**GOOD, "images": ["one.png"]}])
    write_jsonl(tmp_path / "test.jsonl", [{**GOOD, "images": ["same bytes.png"]}])
    text = refusal(tmp_path)
    assert "test.jsonl:1: asks the same as" in text
    row = {"question": "Other?", "answer": "3", "images": ["same bytes.png"]}
    write_jsonl(tmp_path / "test.jsonl", [row])
    text = refusal(tmp_path)
    assert "1 images stand in two splits" in text
    assert f"in train ({tmp_path}/train.jsonl:4) and in test ({tmp_path}/test.jsonl:1)" in text


def test_two_test_sets_may_share_images_and_no_others() -> None:
    def one(split: str) -> Query:
        return Query(split, (SHAS[0],), split, None, "1", "number", split=split)

    for first, second, shared in [
        ("train", "validation", 1),
        ("train", "test", 1),
        ("validation", "ood", 1),
        ("test", "ood", 0),
        ("train", "train", 0),
    ]:
        assert len(shared_images([one(first), one(second)])) == shared
    assert len(shared_images([one("train"), one("validation"), one("test")])) == 3


def test_splits_of_other_names(tmp_path: Path) -> None:
    (tmp_path / "one.png").write_bytes(png(0))
    pool = {"question": "p", "answer": "1", "images": ["one.png"], "unlabelled": True}
    write_jsonl(tmp_path / "pool.jsonl", [pool])
    write_jsonl(tmp_path / "chooser.jsonl", [{"question": "c", "answer": "1"}])
    data = load_dataset(tmp_path, Reading(train="pool", validation="chooser"))
    assert [q.split for q in data.queries] == ["chooser", "pool"]
    assert "named after a split" in refusal(tmp_path)
    shared = {"question": "c", "answer": "1", "images": ["one.png"]}
    write_jsonl(tmp_path / "chooser.jsonl", [shared])
    assert "in pool" in refusal(tmp_path, Reading(train="pool", validation="chooser"))


@st.composite
def unsplit(draw: st.DrawFn) -> list[Query]:
    images = st.lists(st.sampled_from(SHAS), max_size=2)
    return [
        Query(f"q{index}", tuple(shas), f"{index}?", None, "1", "number", unlabelled=hidden)
        for index, (shas, hidden) in enumerate(
            draw(st.lists(st.tuples(images, st.sampled_from([False] * 9 + [True])), min_size=1))
        )
    ]


@given(unsplit(), st.integers(0, 5), st.integers(0, 5), st.integers(0, 3), st.randoms())
def test_carving_never_splits_an_image(
    given_queries: list[Query], validation: int, test: int, seed: int, random: Any
) -> None:
    sizes = Carve(validation, test, seed)
    try:
        carved = carve(given_queries, sizes)
    except BadData:
        groups = components(given_queries)
        free = [len(g) for g in groups if not any(given_queries[i].unlabelled for i in g)]
        # A split holds less than twice what was asked for, so a refusal means that either split
        # could not be filled after the other, or that both together took everything.
        no_test = sum(n for n in free if n <= test) < test
        no_validation = sum(n for n in free if n <= validation) < validation + 2 * test
        assert no_test or no_validation or len(given_queries) < 2 * (validation + test)
        return
    assert [replace(query, split="train") for query in carved] == given_queries
    assert shared_images(carved) == []
    by_split = {name: [q for q in carved if q.split == name] for name in ("validation", "test")}
    for name, size in (("validation", validation), ("test", test)):
        assert size <= len(by_split[name]) < 2 * size or len(by_split[name]) == size
        assert not any(query.unlabelled for query in by_split[name])
    shuffled = random.sample(given_queries, len(given_queries))
    again = {query.query_id: query.split for query in carve(shuffled, sizes)}
    assert again == {query.query_id: query.split for query in carved}


@given(unsplit())
def test_components_are_the_closure_of_sharing_an_image(given_queries: list[Query]) -> None:
    """Against the slow way: merge any two groups that share an image until none do."""
    groups: list[set[int]] = [{index} for index in range(len(given_queries))]

    def images(group: set[int]) -> set[str]:
        return {image for index in group for image in given_queries[index].images}

    merged = True
    while merged:
        merged = False
        for a in groups:
            for b in groups:
                if a is not b and images(a) & images(b):
                    groups = [group for group in groups if group not in (a, b)] + [a | b]
                    merged = True
                    break
            if merged:
                break
    expected = sorted(sorted(group) for group in groups)
    assert sorted(components(given_queries)) == expected


def test_a_file_without_splits_is_carved(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "data.jsonl", numbered(100))
    data = load_dataset(file)
    counts = {name: len(data.split(name)) for name in ("train", "validation", "test")}
    assert counts == {"train": 60, "validation": 20, "test": 20}
    other = load_dataset(file, sizes=Carve(20, 5, seed=1))
    assert (len(other.split("validation")), len(other.split("test"))) == (20, 5)
    assert "60 queries were asked for" in refusal(file, sizes=Carve(60, 50))
    assert "nothing is left to train on" in refusal(file, sizes=Carve(50, 50))


@pytest.mark.parametrize(
    ("labelled", "sizes"),
    [(3, (0, 0)), (60, (12, 12)), (150, (30, 30)), (2000, (200, 200)), (20_000, (250, 750))],
)
def test_default_sizes_are_a_tenth_more_of_small_data_and_the_papers_at_most(
    labelled: int, sizes: tuple[int, int]
) -> None:
    assert (default_size("validation", labelled), default_size("test", labelled)) == sizes


@pytest.mark.parametrize(("images", "splits"), [(2, ["validation"]), (3, ["test", "validation"])])
def test_few_images_with_many_questions_each_are_carved_all_the_same(
    images: int, splits: list[str]
) -> None:
    asked = [
        Query(f"{i}", (SHAS[i % images],), f"{i}?", None, "1", "number") for i in range(20 * images)
    ]
    carved = carve(asked, Carve())
    assert sorted({query.split for query in carved} - {"train"}) == splits
    assert shared_images(carved) == []


def test_carving_takes_other_queries_with_another_seed() -> None:
    given_queries = [Query(f"{i}", (), f"{i}?", None, "1", "number") for i in range(200)]
    one, two = (
        {q.query_id for q in carve(given_queries, Carve(0, 50, seed)) if q.split == "test"}
        for seed in (0, 1)
    )
    assert one != two
    assert len(one & two) < 30


def test_a_split_of_a_dataset_is_in_order() -> None:
    rows = [Query(f"{i}", (), f"{i}?", None, "1", "number", split="ab"[i % 2]) for i in range(6)]
    assert [q.query_id for q in Dataset(rows, {}).split("b")] == ["1", "3", "5"]


def many(count: int, shared: int) -> list[Query]:
    """Questions of one image each; every `shared` of them have the same."""
    return [
        Query(f"q{i}", (f"{i // shared:064x}",), f"{i}?", None, "1", "number", split="")
        for i in range(count)
    ]


@pytest.mark.parametrize("shared", [1, 3])
def test_the_papers_split_at_its_size(shared: int) -> None:
    done = mstar_split(many(18_000, shared), 0)
    sizes = Counter((query.split, query.unlabelled) for query in done)
    assert abs(sizes["train", False] - 9000) < shared
    assert abs(sizes["test", False] - 750) < shared
    assert abs(sizes["validation", False] - 250) < shared
    assert sum(sizes.values()) == 18_000
    assert sizes["train", True] == 18_000 - sum(
        count for (_, hidden), count in sizes.items() if not hidden
    )


def test_the_papers_split_is_by_image_and_drawn_by_the_seed_alone() -> None:
    queries = many(400, 4)
    done = mstar_split(queries, 0)
    parts: dict[str, set[tuple[str, bool]]] = {}
    for query in done:
        parts.setdefault(query.images[0], set()).add((query.split, query.unlabelled))
    assert all(len(part) == 1 for part in parts.values())
    assert [query.question for query in done] == [query.question for query in queries]
    turned = mstar_split(queries[::-1], 0)
    assert turned == done[::-1]
    assert mstar_split(queries, 1) != done


def test_hidden_answers_stay_hidden_and_in_train() -> None:
    queries = many(200, 2)
    queries[7] = replace(queries[7], unlabelled=True)
    done = mstar_split(queries, 0)
    assert (done[7].split, done[7].unlabelled) == ("train", True)
    assert done[6].split == "train"  # of the same image


def test_too_few_images_for_the_papers_split() -> None:
    with pytest.raises(BadData, match="too few for a test split"):
        mstar_split(many(12, 12), 0)
