"""Data sets: what is written loads as it was, and what users bring is read as documented."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.datasets.dataset import check_writable, load_dataset, write_dataset
from pipeline.datasets.row_checks import COLUMNS
from pipeline.datasets.splits import Carve
from pipeline.errors import BadData
from pipeline.grading.grade import Gold, check_gold
from pipeline.query import ANSWER_TYPES, LETTERS, Query
from tests.support.dataset_files import GOOD, PNGS, SHAS, numbered, png, refusal, write_jsonl

TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1).filter(
    lambda text: text == text.strip() and text and not set(text) & set("<[")
)


@st.composite
def query_lists(draw: st.DrawFn) -> list[Query]:
    """Queries of several splits; each split has images of its own."""
    splits = {"train": SHAS[:4], "validation": SHAS[4:6], "test": SHAS[6:8], "ood": SHAS[8:]}
    questions = draw(st.lists(TEXT, min_size=1, max_size=8, unique=True))
    return [
        draw(queries(f"q{index}", question, splits)) for index, question in enumerate(questions)
    ]


@st.composite
def queries(draw: st.DrawFn, name: str, question: str, splits: dict[str, list[str]]) -> Query:
    split = draw(st.sampled_from(sorted(splits)))
    choices = draw(st.none() | st.lists(TEXT, min_size=2, max_size=5, unique=True))
    unlabelled = split == "train" and draw(st.booleans())
    answer_type = "letter" if choices else draw(st.sampled_from(ANSWER_TYPES))
    of_type = {
        "letter": st.sampled_from(LETTERS[: len(choices or LETTERS)]),
        "yes_no": st.sampled_from(["yes", "no"]),
        "number": st.integers().map(str),
    }
    held = tuple(choices) if choices else None
    gold = of_type.get(answer_type, TEXT).filter(
        lambda answer: unlabelled or check_gold(Gold(name, answer, answer_type, held)) is None
    )
    return Query(
        query_id=name,
        images=tuple(draw(st.lists(st.sampled_from(splits[split]), max_size=3))),
        question=question,
        choices=held,
        answer=draw(gold | st.none()) if unlabelled else draw(gold),
        answer_type=answer_type,
        unlabelled=unlabelled,
        source=draw(st.sampled_from(["digits/sum", "user"])),
        split=split,
    )


@settings(max_examples=40)
@given(query_lists())
def test_what_is_written_loads_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, written: list[Query]
) -> None:
    # A folder without a train, validation or test file is not one of splits.
    written = [*written, Query("last", (), "The last one?", None, "1", "number")]
    folder = tmp_path_factory.mktemp("data")
    write_dataset(folder, written, PNGS)
    read = load_dataset(folder)
    assert sorted(read.queries, key=lambda q: q.query_id) == sorted(
        written, key=lambda q: q.query_id
    )
    for split in ("train", "validation", "test", "ood"):
        assert read.split(split) == [q for q in written if q.split == split]
    used = {sha for query in written for sha in query.images}
    assert {sha: read.image_bytes(sha) for sha in read.image_paths} == {s: PNGS[s] for s in used}
    before = folder_bytes(folder)
    write_dataset(folder, read.queries, PNGS)
    assert folder_bytes(folder) == before


def folder_bytes(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_same_queries_give_the_same_bytes_elsewhere(tmp_path: Path) -> None:
    written = [
        Query("a", (SHAS[0], SHAS[1]), "Sum?", None, "3", "number", source="digits/sum"),
        Query("b", (SHAS[2],), "Which?", ("x", "y"), "B", "letter", split="test"),
    ]
    write_dataset(tmp_path / "one", written, dict(PNGS))
    write_dataset(tmp_path / "two", written, dict(reversed(PNGS.items())))
    assert folder_bytes(tmp_path / "one") == folder_bytes(tmp_path / "two")
    names = {f"images/{sha}.png" for sha in SHAS[:3]} | {"train.parquet", "test.parquet"}
    assert set(folder_bytes(tmp_path / "one")) == names


def test_a_letter_that_is_also_a_text_survives_the_round_trip(tmp_path: Path) -> None:
    written = [Query("a", (), "Which point?", ("B", "A"), "A", "letter")]
    write_dataset(tmp_path, written, {})
    assert load_dataset(tmp_path).queries == written


def test_content_hash_is_question_choices_and_images_only() -> None:
    query = Query("a", (SHAS[0],), "Sum?", None, "3", "number")
    same = replace(query, query_id="b", answer="4", source="x", split="test", unlabelled=True)
    assert same.content_hash == query.content_hash
    canonical = b'{"choices":null,"images":["%s"],"question":"Sum?"}' % SHAS[0].encode()
    assert query.content_hash == hashlib.sha256(canonical).hexdigest()
    for changed in ({"question": "Sum"}, {"choices": ("3", "4")}, {"images": (SHAS[1],)}):
        assert replace(query, **changed).content_hash != query.content_hash


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": "maybe", "answer_type": "yes_no"}, "write yes or no"),
        ({"question": " padded "}, "question would read back as 'padded'"),
        ({"images": ("0" * 64,)}, "is not among the images given"),
        ({"images": (SHAS[11],)}, "is not the hash of the bytes"),
        ({"query_id": "b"}, "query_id 'b'"),
        ({"question": "Other?"}, "say the same"),
        ({"images": (SHAS[1],)}, "stand in two splits"),
        ({"split": "val"}, "did you mean 'validation'?"),
        ({"source": ""}, "source would read back as 'user'"),
    ],
)
def test_queries_that_would_not_load_are_not_written(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    query = Query("a", (SHAS[0],), "Sum?", None, "3", "number")
    other = Query("b", (SHAS[0],), "Other?", None, "3", "number")
    held_out = Query("c", (SHAS[1],), "Third?", None, "3", "number", split="test")
    images = {**PNGS, SHAS[11]: b"other bytes"}
    with pytest.raises(BadData) as caught:
        write_dataset(tmp_path / "out", [replace(query, **change), other, held_out], images)
    assert message in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_nothing_is_written_beside_another_data_set(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "ood.jsonl", [GOOD])
    with pytest.raises(BadData, match=r"ood\.jsonl of another data set"):
        write_dataset(tmp_path, [Query("a", (), "Sum?", None, "3", "number")], {})


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/nowhere")):
        with pytest.raises(BadData, match=f"{folder}: cannot write in this folder"):
            check_writable(folder)
        with pytest.raises(BadData, match="cannot write in this folder"):
            write_dataset(folder, [Query("a", (), "Sum?", None, "3", "number")], {})
    check_writable(tmp_path / "new" / "folder")
    assert list((tmp_path / "new" / "folder").iterdir()) == []


def test_a_users_jsonl_in_full(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "images").mkdir()
    (tmp_path / "pictures" / "one.png").write_bytes(png(0))
    (tmp_path / "pictures" / "copy.png").write_bytes(png(0))
    (tmp_path / "elsewhere.png").write_bytes(png(1))
    (tmp_path / "images" / f"{SHAS[2]}.png").write_bytes(png(2))
    rows: list[dict[str, Any]] = [
        {"images": ["pictures/one.png"], "question": " How many? ", "answer": 3},
        {"images": ["pictures/copy.png"], "question": "Is it?", "answer": "Yes", "choices": []},
        {"images": [str(tmp_path / "elsewhere.png"), SHAS[2]], "question": "Which?"}
        | {"choices": ["a cat", "a dog"], "answer": "a dog", "answer_type": None},
        {"question": "Name it.", "answer_type": "word", "unlabelled": True, "source": "web"},
    ]
    data = load_dataset(write_jsonl(tmp_path / "data.jsonl", rows), sizes=Carve(0, 0))
    assert data.queries == [
        Query("data:1", (SHAS[0],), "How many?", None, "3", "number"),
        Query("data:2", (SHAS[0],), "Is it?", None, "yes", "yes_no"),
        Query("data:3", (SHAS[1], SHAS[2]), "Which?", ("a cat", "a dog"), "B", "letter"),
        Query("data:4", (), "Name it.", None, None, "word", unlabelled=True, source="web"),
    ]
    assert data.image_paths[SHAS[0]] == tmp_path / "pictures" / "one.png"
    assert data.where["data:3"] == f"{tmp_path}/data.jsonl:3"
    assert data.open_image(SHAS[1]).getpixel((0, 0)) == (1, 1, 1)


def test_the_example_in_the_documentation(tmp_path: Path) -> None:
    document = (Path(__file__).resolve().parents[3] / "docs" / "data.md").read_text()
    (tmp_path / "data.jsonl").write_text(document.split("```jsonl\n")[1].split("```")[0])
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "bar-17.png").write_bytes(png(0))
    (tmp_path / "pictures" / "shapes-3.jpg").write_bytes(png(1))
    data = load_dataset(tmp_path / "data.jsonl", sizes=Carve(0, 0))
    types = [query.answer_type for query in data.queries]
    assert types == ["number", "letter", "yes_no", "expression", "word"]
    columns = {line.split("`")[1] for line in document.splitlines() if line.startswith("| `")}
    assert set(COLUMNS) <= columns


def test_parquet_as_pandas_and_others_write_it(tmp_path: Path) -> None:
    (tmp_path / "one.png").write_bytes(png(0))
    table = pa.table(
        {
            "query_id": pa.array([7, 8, 9]),
            "images": pa.array([["one.png"], [], None], pa.large_list(pa.large_string())),
            "question": pa.array(["A?", "B?", "C?"]).dictionary_encode(),
            "choices": pa.array([None, ["x", "y"], []]),
            # pandas turns a column of whole numbers with a gap into floats with NaN.
            "answer": pa.array([1.5, float("nan"), float("nan")], from_pandas=False),
            "unlabelled": pa.array([False, True, True]),
            "answer_type": pa.array(["number", None, "word"]),
        }
    )
    pq.write_table(table, tmp_path / "mine.parquet")
    assert load_dataset(tmp_path / "mine.parquet").queries == [
        Query("7", (SHAS[0],), "A?", None, "1.5", "number"),
        Query("8", (), "B?", ("x", "y"), None, "letter", unlabelled=True),
        Query("9", (), "C?", None, None, "word", unlabelled=True),
    ]


def test_blank_lines_windows_line_ends_and_a_byte_order_mark(tmp_path: Path) -> None:
    file = tmp_path / "data.jsonl"
    first, second = (json.dumps(row, ensure_ascii=False) for row in numbered(2))
    file.write_bytes(f"\ufeff{first}\r\n\r\n \n{second} \r\n\n".encode())
    assert [query.query_id for query in load_dataset(file).queries] == ["data:1", "data:4"]


def test_a_line_separator_inside_a_text_does_not_end_the_line(tmp_path: Path) -> None:
    row = json.dumps({**GOOD, "question": "a\u2028b\u0085c"}, ensure_ascii=False)
    (tmp_path / "data.jsonl").write_text(row, encoding="utf-8")
    assert load_dataset(tmp_path / "data.jsonl").queries[0].question == "a\u2028b\u0085c"


def test_rows_that_repeat_one_are_left_out_and_counted(tmp_path: Path) -> None:
    data = load_dataset(write_jsonl(tmp_path / "data.jsonl", [GOOD, GOOD, *numbered(1)]))
    assert [query.query_id for query in data.queries] == ["data:1", "data:3"]
    assert data.duplicates == 1


def test_tables_of_pandas_and_duckdb_with_decimals_narrow_floats_and_an_index(
    tmp_path: Path,
) -> None:
    frame = pd.DataFrame(
        {
            "question": ["A?", "B?", "C?", "D?"],
            "answer": np.array([0.1, 2.5, 7.0, 1 / 3], np.float32),
            "query_id": pd.array([1, None, 3, 4], "Float64"),
        }
    )
    frame.query("query_id == query_id").to_parquet(tmp_path / "pandas.parquet")
    assert "__index_level_0__" in pq.read_schema(tmp_path / "pandas.parquet").names
    assert [(q.query_id, q.answer) for q in load_dataset(tmp_path / "pandas.parquet").queries] == [
        *(("1", "0.1"), ("3", "7"), ("4", "0.33333334"))
    ]
    half = pa.table({"question": ["?"], "answer": pa.array(np.array([0.1], np.float16))})
    pq.write_table(half, tmp_path / "half.parquet")
    assert load_dataset(tmp_path / "half.parquet").queries[0].answer == "0.1"
    lists = pa.array([[0.1, 0.2]], pa.list_(pa.float32()))
    pq.write_table(
        pa.table({"question": ["?"], "choices": lists, "answer": ["0.2"]}), tmp_path / "c.parquet"
    )
    assert load_dataset(tmp_path / "c.parquet").queries[0].choices == ("0.1", "0.2")
    sql = "SELECT 'A?' AS question, 3.5 AS answer UNION ALL SELECT 'B?', 3.50::DECIMAL(9, 4)"
    duckdb.execute(f"COPY ({sql}) TO '{tmp_path}/duckdb.parquet' (FORMAT parquet)")
    assert [q.answer for q in load_dataset(tmp_path / "duckdb.parquet").queries] == ["3.5", "3.5"]


def test_a_column_of_whole_numbers_with_a_gap_is_of_whole_numbers(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"question": ["A?", "B?"], "answer": [5, None], "unlabelled": [False, True]}
    )
    frame["answer_type"] = "number"
    frame.to_parquet(tmp_path / "a.parquet")
    frame.to_json(tmp_path / "a.jsonl", orient="records", lines=True)
    for name in ("a.parquet", "a.jsonl"):
        assert [q.answer for q in load_dataset(tmp_path / name).queries] == ["5", None]


@pytest.mark.parametrize("column", ["Unnamed: 0", "Unnamed: 0.1", "index", "level_0"])
def test_an_index_that_pandas_wrote_into_a_text_file_is_ignored(
    tmp_path: Path, column: str
) -> None:
    row = {column: 7, **GOOD}
    assert load_dataset(write_jsonl(tmp_path / "data.jsonl", [row])).queries[0].answer == "3"


@pytest.mark.parametrize("name", ["train.jsonl", "train.parquet", "4.png"])
def test_a_file_that_git_lfs_has_not_fetched_is_called_one(tmp_path: Path, name: str) -> None:
    rows = [{**GOOD, "images": ["4.png"]}]
    write_jsonl(tmp_path / "data.jsonl", rows)
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    text = refusal(tmp_path / ("data.jsonl" if name == "4.png" else name))
    assert f"{name} is a Git LFS pointer" in text
    assert "`git lfs pull`" in text


def test_a_part_that_is_not_there_is_named(tmp_path: Path) -> None:
    def parts(*numbers: int) -> Path:
        folder = tmp_path / "-".join(map(str, numbers))
        folder.mkdir()
        for number in numbers:
            rows = [{**GOOD, "question": f"{number}?", "split": "train"}]
            write_jsonl(folder / f"train-{number:05}-of-00003.jsonl", rows)
        return folder

    assert "train-00001-of-00003 is missing" in refusal(parts(0, 2))
    assert "train-00003-of-00003 is missing" in refusal(parts(1, 2))
    assert len(load_dataset(parts(1, 2, 3)).queries) == len(load_dataset(parts(0, 1, 2)).queries)


@pytest.mark.parametrize(
    ("one", "other", "answer_type"),
    [
        ("5", "5.0", "number"),
        ("5.0", "5", "number"),
        ("1/2", "0.5", "number"),
        ("1,000", "1000", "number"),
        ("Red", "red", "word"),
        ("{1, 2}", "{2, 1}", "list"),
    ],
)
def test_rows_with_the_same_answer_in_two_forms_do_not_contradict_each_other(
    tmp_path: Path, one: str, other: str, answer_type: str
) -> None:
    rows = [{**GOOD, "answer": answer, "answer_type": answer_type} for answer in (one, other)]
    data = load_dataset(write_jsonl(tmp_path / "data.jsonl", [*rows, *numbered(1)]))
    assert [query.answer for query in data.queries] == [one, "0"]
    assert data.duplicates == 1


@pytest.mark.parametrize(
    ("one", "other", "answer_type"),
    [("5", "5.1", "number"), ("5 cm", "5 kg", "number"), ("7 or 8", "8 or 9", "number")],
)
def test_rows_with_other_answers_contradict_each_other(
    tmp_path: Path, one: str, other: str, answer_type: str
) -> None:
    rows = [
        {**GOOD, "answer": answer, "answer_type": answer_type, "unlabelled": " or " in answer}
        for answer in (one, other)
    ]
    text = refusal(write_jsonl(tmp_path / "data.jsonl", rows))
    assert f"data.jsonl:1, and its answer is {other!r}, not {one!r}" in text


@pytest.mark.parametrize(
    ("question", "choices"),
    [
        ("What does the <img> tag do?", None),
        ("What is the <video> element for?", None),
        ("Which tag shows a picture?", ["<img>", "<picture>", "<image>"]),
        ("In HTML, how do <audio> and <video> differ?", None),
        ("What does `<image>` stand for in LLaVA's prompts?", None),
        ("What does `<|endoftext|>` end?", None),
    ],
)
def test_a_tag_that_a_question_is_about_is_text(
    tmp_path: Path, question: str, choices: list[str] | None
) -> None:
    row = {"question": question, "choices": choices, "answer": "A", "answer_type": "letter"}
    query = load_dataset(write_jsonl(tmp_path / "data.jsonl", [row])).queries[0]
    assert (query.question, query.choices) == (question, tuple(choices) if choices else None)


def test_a_question_with_images_has_no_tags_in_its_prose(tmp_path: Path) -> None:
    (tmp_path / "one.png").write_bytes(png(0))
    row = {**GOOD, "question": "What is the price on the tag in <image> here?"}
    refused = refusal(write_jsonl(tmp_path / "a.jsonl", [{**row, "images": ["one.png"]}]))
    assert "the question holds '<image>'" in refused
    assert "write it in backticks where the tag itself is meant" in refused


def test_an_answer_that_could_be_an_index_gets_a_warning(tmp_path: Path) -> None:
    row = {"choices": ["1", "2", "3"], "answer": 1}
    rows = [{"question": f"{n}?", **row} for n in range(3)]
    same = {"question": "same?", "choices": ["0", "1"], "answer": 1}
    file = write_jsonl(tmp_path / "data.jsonl", [same, *rows])
    data = load_dataset(file)
    assert [query.answer for query in data.queries] == ["B", "A", "A", "A"]
    (warning,) = data.warnings
    assert warning.startswith(f"{file}:2 and 2 more rows: the answer is the text of one choice and")
    assert "ScienceQA" in warning


def test_pictures_of_one_colour_get_a_warning(tmp_path: Path) -> None:
    drawing = Image.new("RGBA", (9, 7), (255, 255, 255, 0))
    drawing.putpixel((4, 4), (255, 255, 255, 255))
    drawing.save(tmp_path / "white.png")
    Image.effect_noise((9, 7), 50).save(tmp_path / "noise.png")
    rows = [{**GOOD, "images": ["noise.png", "white.png"]}]
    data = load_dataset(write_jsonl(tmp_path / "data.jsonl", rows))
    (warning,) = data.warnings
    assert warning.startswith(f"{tmp_path}/white.png: of one colour throughout")
    assert set(data.image_sizes.values()) == {(9, 7)}
