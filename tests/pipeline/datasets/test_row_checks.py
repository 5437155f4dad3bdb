"""Bad data: every kind is refused by its place, all of it at once, before anything starts."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.datasets.dataset import load_dataset
from pipeline.datasets.images import Limits
from pipeline.datasets.row_checks import COLUMNS
from pipeline.errors import BadData, BadRows
from pipeline.query import ANSWER_TYPES
from tests.support.dataset_files import GOOD, SHAS, numbered, png, refusal, write_jsonl

BAD_ROWS: list[tuple[dict[str, Any] | str, str]] = [
    ("{not json", "not JSON"),
    ('{"question": "cut', "not JSON"),
    ('"text"', "not a JSON object"),
    ("[1]", "not a JSON object"),
    ('{"question": "a", "question": "b", "answer": "1"}', "'question' stands twice"),
    ('{"question": "?", "answer": Infinity}', "not JSON: Infinity"),
    ("[" * 100_000, "not JSON"),
    ({"answer": "3"}, "no question"),
    ({**GOOD, "question": " \n"}, "the question is empty"),
    ({**GOOD, "question": 5}, "question is a number, not text"),
    ({**GOOD, "question": "\ud800"}, "'question' is not valid Unicode"),
    ({**GOOD, "answer": "\ud800"}, "'answer' is not valid Unicode"),
    ({**GOOD, "choices": ["3", "\udfff"]}, "'choices' is not valid Unicode"),
    ({**GOOD, "images": ["\ud83d.png"]}, "'images' is not valid Unicode"),
    ({**GOOD, "query_id": "a\ud800"}, "'query_id' is not valid Unicode"),
    ({**GOOD, "source": "\udc80"}, "'source' is not valid Unicode"),
    ({**GOOD, "split": "\udc80"}, "'split' is not valid Unicode"),
    ({**GOOD, "answer_type": "\udc80"}, "'answer_type' is not valid Unicode"),
    ({**GOOD, "\ud800": "x"}, "'\\ud800' is not valid Unicode"),
    ({**GOOD, "extra": {"deep": ["\ud800"]}}, "'extra' is not valid Unicode"),
    ({"question": "?"}, "no answer; give one, or set unlabelled to true"),
    ({"question": "?", "answer": ""}, "no answer"),
    ({"question": "?", "answer": None}, "no answer"),
    ({"question": "?", "answer": [3, 5]}, "a list as '3, 5, 7'"),
    ({"question": "?", "answer": True}, "answer is true or false"),
    ({"question": "?", "answer": "blue"}, "no answer_type"),
    ({**GOOD, "answer_type": "numbr"}, "unknown answer_type 'numbr'; did you mean 'number'?"),
    ({**GOOD, "answer_type": "float"}, "unknown answer_type 'float'; known are number"),
    ({**GOOD, "answer_type": 3}, "unknown answer_type 3"),
    ({**GOOD, "answer_type": "yes_no"}, "write yes or no"),
    ({**GOOD, "answer_type": "letter"}, "is not a letter, and there are no choices"),
    ({**GOOD, "answer": "some", "answer_type": "number"}, "'some' as answer_type number; correct"),
    ({**GOOD, "answer": "7 or 8", "answer_type": "number"}, "'7 or 8' as answer_type number; corr"),
    ({**GOOD, "answer": "1,,2", "answer_type": "list"}, "'1,,2' as answer_type list; correct"),
    ({**GOOD, "answer": "...", "answer_type": "word"}, "'...' as answer_type word; correct"),
    ({**GOOD, "answer": "x" * 1001, "answer_type": "word"}, "the answer has 1001 characters"),
    ({**GOOD, "choices": ["1", "2"]}, "'3' is not among the choices"),
    ({**GOOD, "answer": "C", "choices": ["1", "2"]}, "'C' is not among the choices"),
    ({**GOOD, "answer": "A", "choices": ["B", "A"]}, "write '(A)' or '(B)'"),
    ({**GOOD, "choices": ["1", "3"], "answer_type": "number"}, "with choices is a 'letter'"),
    ({**GOOD, "choices": ["3"]}, "1 choices; there are 2 to 26"),
    ({**GOOD, "choices": [str(n) for n in range(27)]}, "27 choices"),
    ({**GOOD, "choices": ["3", "3"]}, "two choices are '3'"),
    ({**GOOD, "choices": ["3", ""]}, "choice (B) is empty"),
    ({**GOOD, "choices": ["3", None, "4"]}, "choice (B) is empty"),
    ({**GOOD, "choices": ["3", "a\nb"]}, "choice (B) is more than one line"),
    ({**GOOD, "choices": ["3", True]}, "choice (B) is true or false, not text or a number"),
    ({**GOOD, "answer": "3.00", "choices": ["3", "3.0"]}, "two choices are '3' as the grader"),
    ({**GOOD, "choices": "3"}, "choices is text, not a list"),
    ({**GOOD, "answer": "A", "choices": ["(A) x", "(B) y"]}, "carry their own letters"),
    ({**GOOD, "answer": "A, C", "choices": ["r", "b", "g"]}, "(multi-select) are not supported"),
    ({**GOOD, "answer": "A and C", "choices": ["r", "b", "g"]}, "(multi-select) are not supported"),
    ({**GOOD, "answer": "A和C", "choices": ["r", "b", "g"]}, "(multi-select) are not supported"),
    ({**GOOD, "answer": "ABC", "choices": ["r", "b", "g"]}, "(multi-select) are not supported"),
    (
        {**GOOD, "answer": ["A", "C"], "choices": ["r", "b", "g"]},
        "(multi-select) are not supported",
    ),
    ({**GOOD, "answer": "r, b", "choices": ["r", "b", "g"]}, "(multi-select) are not supported"),
    (
        {**GOOD, "answer": 1, "choices": ["r", "b", "g"]},
        "an index counted from 0, as in ScienceQA, w",
    ),
    ({**GOOD, "answer": "A", "choices": ["<image 1>", "<image 2>"]}, "its choices are pictures"),
    (
        {**GOOD, "answer": "A", "choices": "['red', 'blue']"},
        "choices is text, not a list of texts (it",
    ),
    ({**GOOD, "answer": "A", "choices": {"A": "r", "B": "b"}}, "choices is an object, not a list"),
    ({**GOOD, "unlabelled": "no"}, "unlabelled is text, not true or false"),
    ({**GOOD, "question": "<image>\nHow many?"}, "holds '<image>'"),
    ({**GOOD, "question": "Look at <image 1>."}, "holds '<image 1>'"),
    ({**GOOD, "question": "a <|image_pad|> b"}, "holds '<|image_pad|>'"),
    ({**GOOD, "question": "a<end_of_utterance>"}, "holds '<end_of_utterance>'"),
    ({**GOOD, "choices": ["3", "a <image_2>"]}, "the choice holds '<image_2>'"),
    ({**GOOD, "question": "<img>\nWhich tag is it?"}, "holds '<img>'"),
    ({**GOOD, "question": "<img>a.png</img> How many?"}, "holds '<img>'"),
    ({**GOOD, "question": "Name the element <image>."}, "holds '<image>'"),
    ({**GOOD, "images": "one.png"}, "images is text, not a list of paths"),
    ({**GOOD, "images": [1]}, "images is a list of something else"),
    ({**GOOD, "images": [""]}, "is no path"),
    ({**GOOD, "images": ["https://example.org/a.png"]}, "is an address"),
    ({**GOOD, "images": ["iVBORw0KGgo" * 500]}, "pictures in base64 have to be saved as files"),
    ({**GOOD, "images": ["gone.png"]}, "gone.png does not exist"),
    ({**GOOD, "images": ["cut.png"]}, "cut.png cannot be decoded, truncated"),
    ({**GOOD, "images": ["notes.png"]}, "notes.png is not an image"),
    ({**GOOD, "images": ["large.png"]}, "large.png is enormous: 30x30"),
    ({**GOOD, "images": ["heavy.png"]}, "heavy.png is enormous: "),
    ({**GOOD, "images": ["0" * 64]}, f"no file images/{'0' * 64}.* beside the data"),
    ({**GOOD, "images": ["1" * 64]}, "does not hash to its name"),
    ({**GOOD, "split": "val"}, "unknown split 'val'; did you mean 'validation'?"),
    ({**GOOD, "split": "My Split"}, "is no split name"),
    ({**GOOD, "anwser": "3"}, "unknown column 'anwser'; did you mean 'answer'?"),
    ({**GOOD, "image": "x.png"}, "unknown column 'image'; did you mean 'images'?"),
    ({**GOOD, "options": "x"}, "unknown column 'options'; did you mean 'choices'?"),
    ({**GOOD, "zzz": 1}, "unknown column 'zzz'; known are query_id, images"),
]


def folder_of_images(folder: Path) -> None:
    (folder / "images").mkdir()
    (folder / "images" / f"{'1' * 64}.png").write_bytes(png(3))
    (folder / "cut.png").write_bytes(png(0)[:-20])
    (folder / "notes.png").write_text("no image")
    (folder / "heavy.png").write_bytes(b"\0" * 10_001)
    Image.new("L", (30, 30)).save(folder / "large.png")


SMALL = Limits(max_pixels=800, max_image_bytes=10_000)


@pytest.mark.parametrize(("row", "message"), BAD_ROWS, ids=[message for _, message in BAD_ROWS])
def test_a_bad_row_is_named_with_its_line(
    tmp_path: Path, row: dict[str, Any] | str, message: str
) -> None:
    folder_of_images(tmp_path)
    good = {"question": "Good?", "answer": "1"}
    text = refusal(write_jsonl(tmp_path / "data.jsonl", [good, row]), limits=SMALL)
    assert f"{tmp_path}/data.jsonl:2: " in text
    assert message in text
    assert f"{tmp_path}/data.jsonl:1: " not in text
    assert "1 of 2 rows" in text


def test_a_hidden_answer_is_compared_with_nothing_and_need_not_be_readable(tmp_path: Path) -> None:
    row = {**GOOD, "answer": "7 or 8", "answer_type": "number", "split": "train"}
    file = write_jsonl(tmp_path / "data.jsonl", [{**row, "unlabelled": True}])
    assert [query.answer for query in load_dataset(file).queries] == ["7 or 8"]
    assert "'7 or 8'" in refusal(write_jsonl(file, [row]))


def test_all_bad_rows_are_listed_in_order_up_to_the_limit(tmp_path: Path) -> None:
    folder_of_images(tmp_path)
    rows = [row for row, _ in BAD_ROWS if isinstance(row, str) or "split" not in row]
    file = write_jsonl(tmp_path / "data.jsonl", [*numbered(3), *rows])
    text = refusal(file, limits=SMALL)
    lines = text.splitlines()
    assert [line.split(": ")[0].strip() for line in lines[1:21]] == [
        f"{file}:{number}" for number in range(4, 24)
    ]
    assert lines[21].strip() == f"and {len(rows) - 20} more"
    assert f"{len(rows)} of {len(rows) + 3} rows" in lines[0]
    everything = refusal(file, limits=replace(SMALL, listed=1000))
    assert len(everything.splitlines()) == 1 + len(rows)
    assert "more" not in everything.splitlines()[-1]


def test_every_problem_of_a_row_is_said(tmp_path: Path) -> None:
    row = {"question": "<image>?", "answer_type": "numbr", "images": ["gone.png"], "unlabelled": 1}
    text = refusal(write_jsonl(tmp_path / "data.jsonl", [row]))
    for part in ("'<image>'", "'numbr'", "unlabelled is a number", "gone.png does not exist"):
        assert part in text


@pytest.mark.parametrize(
    "row",
    [
        {"question": "?", "choices": "['red', 'blue']", "answer": "A"},
        {"question": "?", "choices": ["x", {}], "answer": "A"},
        {"question": "?", "choices": ["<image 1>", "<image 2>"], "answer": "B"},
        {"question": "?", "choices": ["r", "b", "g"], "answer": "A, C"},
        {"question": "?", "answer": [3, 5]},
        {"question": "?", "answer": "\ud800"},
        {"question": "?", "\ud800": "1"},
        {"question": "?"},
    ],
)
def test_what_follows_from_a_problem_is_not_said_besides(
    tmp_path: Path, row: dict[str, Any]
) -> None:
    text = refusal(write_jsonl(tmp_path / "data.jsonl", [row]))
    assert "; " not in text.splitlines()[1].replace("; give", "").replace("; leave", "").replace(
        "; ast", ""
    )


def test_every_bad_row_is_in_the_error_and_the_message_says_how_to_get_them(
    tmp_path: Path,
) -> None:
    rows = [{"question": f"{n}?", "extra": 1} if n % 2 else {"question": 5} for n in range(50)]
    file = write_jsonl(tmp_path / "data.jsonl", rows)
    with pytest.raises(BadRows) as caught:
        load_dataset(file)
    assert [(row.file, row.row) for row in caught.value.rows] == [
        (str(file), number) for number in range(1, 51)
    ]
    assert caught.value.rows[0].reasons[0] == "question is a number, not text"
    assert all("unknown column 'extra'" in row.reasons[-1] for row in caught.value.rows[1::2])
    lines = str(caught.value).splitlines()
    assert lines[0].endswith("50 of 50 rows cannot be used; nothing was started")
    assert "unknown column 'extra'; known are" in lines[2]
    assert "(25 rows have it)" in lines[2]
    assert "unknown column" not in lines[4]
    assert lines[-1].strip() == "and 30 more"
    assert caught.value.unlisted == 30


def test_a_shared_image_is_a_bad_row_of_both_splits(tmp_path: Path) -> None:
    (tmp_path / "one.png").write_bytes(png(0))
    for split in ("train", "test"):
        row = {"question": f"{split}?", "answer": "1", "images": ["one.png"]}
        write_jsonl(tmp_path / f"{split}.jsonl", [row])
    with pytest.raises(BadRows) as caught:
        load_dataset(tmp_path)
    assert [Path(row.file).name for row in caught.value.rows] == ["train.jsonl", "test.jsonl"]
    assert f"one.png stands in test ({tmp_path}/test.jsonl:1)" in caught.value.rows[0].reasons[0]


SCRAPS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 30),
    st.floats(),
    st.text(st.characters() | st.sampled_from("\ud800\udfff<image>`$\\{}A,"), max_size=12),
    st.sampled_from([*ANSWER_TYPES, "A", "(B)", "A, C", "B. 45°", "45 degrees", "<img>", "1e9"]),
)
VALUES = st.recursive(
    SCRAPS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
ROWS = st.dictionaries(st.sampled_from(COLUMNS) | st.text(max_size=3), VALUES)


@settings(max_examples=100)
@given(
    st.lists(st.dictionaries(st.sampled_from(COLUMNS) | st.text(max_size=3), VALUES), max_size=4)
)
def test_whatever_stands_in_a_row_it_is_data_or_bad_data(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]
) -> None:
    """Never a traceback; and a message that can be printed, whatever the data hold."""
    folder = tmp_path_factory.mktemp("data")
    file = write_jsonl(folder / "data.jsonl", [GOOD, *rows])
    try:
        data = load_dataset(file)
    except BadData as error:
        str(error).encode()
        return
    str(data.warnings).encode()
    for query in data.queries:
        assert query.answer is None or query.answer.strip() == query.answer != ""
        assert query.content_hash


def test_rows_that_contradict_each_other(tmp_path: Path) -> None:
    rows = [
        {"query_id": "a", "question": "One?", "answer": "1"},
        {"query_id": "a", "question": "Two?", "answer": "2"},
        {"query_id": "b", "question": "One?", "answer": "3"},
        {"question": "Four?", "answer": "4"},
    ]
    text = refusal(write_jsonl(tmp_path / "data.jsonl", rows))
    file = tmp_path / "data.jsonl"
    assert f"{file}:2: query_id 'a' is that of {file}:1 too" in text
    assert f"{file}:3: asks the same as {file}:1, and its answer is '3', not '1'" in text
    assert f"{file}:4: no query_id, and other rows have one" in text


def test_parquet_rows_are_named_by_number(tmp_path: Path) -> None:
    columns = {"question": ["a", "b"], "answer": ["1", None], "anwser": ["1", "1"]}
    pq.write_table(pa.table(columns), tmp_path / "data.parquet")
    text = refusal(tmp_path / "data.parquet")
    assert f"{tmp_path}/data.parquet row 2: no answer" in text
    assert f"{tmp_path}/data.parquet row 1: unknown column 'anwser'" in text


def test_a_byte_order_mark_inside_joined_files_is_named(tmp_path: Path) -> None:
    file = tmp_path / "data.jsonl"
    line = '\ufeff{"question": "%s?", "answer": "1"}\n'
    file.write_text(line % "a" + line % "b", encoding="utf-8")
    text = refusal(file)
    assert f"{file}:2: not JSON: begins with a byte order mark" in text
    assert f"{file}:1:" not in text


def test_parquet_text_that_is_not_utf8_is_a_bad_row(tmp_path: Path) -> None:
    texts = pa.array([b"good?", b"\xff\xfe", b"better?"]).cast(pa.binary())
    broken = pa.Array.from_buffers(pa.string(), 3, texts.buffers())
    pq.write_table(
        pa.table({"question": broken, "answer": ["1", "2", "3"]}), tmp_path / "a.parquet"
    )
    text = refusal(tmp_path / "a.parquet")
    assert f"{tmp_path}/a.parquet row 2: question is not valid UTF-8 text" in text
    assert "1 of 3 rows" in text


def test_files_that_cannot_be_read_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "blank.jsonl").write_text("\n\n")
    (tmp_path / "list.jsonl").write_text('[{"question": "?", "answer": "1"}]')
    (tmp_path / "text.parquet").write_text("no parquet")
    (tmp_path / "data.csv").write_text("question,answer")
    os.mkdir(tmp_path / "nothing")
    pq.write_table(pa.table({"question": pa.array([], pa.string())}), tmp_path / "none.parquet")
    whole = (tmp_path / "none.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    assert "no such file" in refusal(tmp_path / "gone.jsonl")
    assert "is empty" in refusal(tmp_path / "empty.jsonl")
    assert "holds no rows" in refusal(tmp_path / "blank.jsonl")
    assert "holds no rows" in refusal(tmp_path / "none.parquet")
    assert "a JSON list" in refusal(tmp_path / "list.jsonl")
    assert "not a readable parquet file" in refusal(tmp_path / "text.parquet")
    assert "not a readable parquet file" in refusal(tmp_path / "cut.parquet")
    assert "is .jsonl" in refusal(tmp_path / "data.csv")
    wide = tmp_path / "wide.jsonl"
    wide.write_text('{"question": "?", "answer": "1"}', encoding="utf-16")
    assert "UTF-16 text; save it as UTF-8" in refusal(wide)
    assert "no .jsonl or .parquet" in refusal(tmp_path / "nothing")


def test_an_image_that_changes_after_loading_is_noticed(tmp_path: Path) -> None:
    image = tmp_path / "one.png"
    image.write_bytes(png(0))
    data = load_dataset(write_jsonl(tmp_path / "data.jsonl", [{**GOOD, "images": ["one.png"]}]))
    image.write_bytes(png(1))
    with pytest.raises(BadData, match="has changed"):
        data.open_image(SHAS[0])
    image.unlink()
    with pytest.raises(BadData, match="cannot be read"):
        data.image_bytes(SHAS[0])
