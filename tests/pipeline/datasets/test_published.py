"""Data in their published forms: what is read, what cannot be used, and what is refused."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.datasets.dataset import Reading, load_dataset, read_dataset
from pipeline.datasets.files import Problems
from pipeline.datasets.images import decode
from pipeline.datasets.published import FORMS
from pipeline.datasets.published_form import Form
from pipeline.datasets.rows import RowReader
from pipeline.datasets.tables import read_table
from pipeline.errors import BadConfig, BadData
from pipeline.hashing import sha256_hex
from pipeline.query import Query
from tests.support import published
from tests.support.dataset_files import GOOD, png, refusal, write_jsonl
from tests.support.published_files import IMAGE, embedded, picture, write_parquet

Write = Callable[[Path], Path]

# What is read of each: its format, queries that can be used, and the bad rows with a reason.
READ: list[tuple[Write, str, int, dict[int, str]]] = [
    (published.mathv360k, "llava", 11, {11: "gone.png does not exist", 12: "none says the answer",
                                        14: "2 image placeholders, and there are 1"}),
    (published.llava_cot, "llava", 7, {7: "its turns are human, gpt, human, gpt"}),
    (published.easyr1, "easyr1", 16, {9: "and there are 0 images", 10: "truncated or damaged"}),
    (published.virl39k, "virl39k", 9, {6: "Processed-99.jpg does not exist"}),
    (published.mmk12, "mmk12", 16, {}),
    (published.mmmu, "mmmu", 9, {9: "its choices are pictures", 10: "several answers",
                                 12: "3 image placeholders"}),
    (published.m3cot, "m3cot", 8, {6: "'(F)' is not among the choices"}),
    (published.mathvista_json, "mathvista", 9, {}),
    (published.mathvista_parquet, "mathvista", 9, {}),
    (published.mathvista_tsv, "mathvista", 9, {}),
    (published.mathverse, "mathverse", 10, {}),
    (published.ai2d, "ai2d", 8, {8: "'4' is no index"}),
    (published.mmstar_parquet, "mmstar", 12, {}),
    (published.mmbench, "vlmevalkit", 13, {6: "the row with index '999'", 7: "broken base64",
                                           8: "choices A, C"}),
    (published.mmstar_tsv, "vlmevalkit", 12, {}),
    (published.ai2d_tsv, "vlmevalkit", 8, {}),
    (published.verl, "verl", 7, {8: "no reward_model.ground_truth", 9: "not one message"}),
]  # fmt: skip


def reading(folder: Path, bad: int | None = None, **options: Any) -> Reading:
    return Reading(embedded=folder / "pictures-of-it", max_bad_rows=bad, **options)


def read(write: Write, folder: Path) -> dict[str, Query]:
    """The queries of a fixture that can be used, by id."""
    (folder / "data").mkdir()
    data = read_dataset(write(folder / "data"), reading(folder))
    return {query.query_id: query for query in data.queries}


@pytest.mark.parametrize(
    ("write", "form", "usable", "bad"), READ, ids=[row[0].__name__ for row in READ]
)
def test_a_published_form_is_found_by_its_shape_and_read(
    tmp_path: Path, write: Write, form: str, usable: int, bad: dict[int, str]
) -> None:
    (tmp_path / "data").mkdir()
    path = write(tmp_path / "data")
    data = read_dataset(path, reading(tmp_path))
    assert [one.name for one in data.forms] == [form]
    assert len(data.queries) == usable
    assert {row.row for row in data.bad} == set(bad)
    for row in data.bad:
        assert bad[row.row] in "; ".join(row.reasons)
    for query in data.queries:
        for sha in query.images:
            assert sha256_hex(data.image_bytes(sha)) == sha
            assert data.open_image(sha).size == (96, 64)
    again = read_dataset(path, reading(tmp_path, format=form))
    assert again.queries == data.queries
    if bad:
        text = refusal(path, reading(tmp_path, 0))
        assert f"{len(bad)} of {usable + len(bad)} rows cannot be used" in text
        assert "data.max_bad_rows" in text
    assert len(FORMS) == len({row[1] for row in READ} | {"huggingface"})


def test_what_each_column_becomes(tmp_path: Path) -> None:
    vista = read(published.mathvista_parquet, tmp_path)
    assert vista["1"].question == "What is the wavelength? (to 1 decimal place)"
    assert vista["2"].question == "How heavy is it? (Unit: g)"
    assert (vista["3"].answer, vista["3"].choices) == ("C", ("135°", "140°", "145°", "150°"))
    assert (vista["5"].answer, vista["5"].answer_type) == ("0, 2", "list")
    # the answer is the text "B", which is the first choice, not the letter B
    assert vista["7"].answer == "A"
    assert vista["8"].unlabelled
    assert vista["4"].source == "Super-CLEVR"


def test_what_a_prompt_adds_is_no_part_of_the_question(tmp_path: Path) -> None:
    llava = read(published.mathv360k, tmp_path)
    assert llava["q0"].question == "Which bar 0 is taller?"
    assert llava["q0"].choices == ("the left", "the right", "none")
    assert llava["q2"].question == "第2个柱子有多高? (to 1 decimal place)"
    assert (llava["q2"].answer, llava["q2"].answer_type) == ("2.5", "number")
    assert llava["q2"].source == "GeoQA+"
    # row 13 repeats the id q0, so it goes by its place
    assert "train_samples_all_tuning:13" in llava


def test_the_same_picture_in_several_rows_is_one_image(tmp_path: Path) -> None:
    llava = read(published.mathv360k, tmp_path)
    assert llava["q0"].images == llava["q1"].images != llava["q2"].images


def test_pictures_named_by_another_row_and_rotations(tmp_path: Path) -> None:
    bench = read(published.mmbench, tmp_path)
    assert bench["20"].images == bench["10"].images == bench["2000010"].images
    assert bench["30"].images == bench["40"].images  # a later row's
    assert bench["10"].question == "Look at the\tbars.\nAll of them.\nWhich is taller?"
    turned = bench["1000010"]
    assert turned.choices == ("right", "none", "left")
    assert turned.answer == "C"


@pytest.mark.parametrize(
    ("write", "query_id", "question", "n_images"),
    [
        (published.easyr1, "7", "In image 1, is x as in image 2?", 2),
        (published.mmmu, "validation_Art_1", "In image 2, is it as in image 1?", 2),
        (published.virl39k, "P-1", "Are both equal?", 2),
        (published.virl39k, "P-2", "What is 2 + 3?", 0),
        (published.m3cot, "geometry-2", "The bars are of iron.\nWhat is bar 2?", 1),
        (published.m3cot, "physics-3", "What is bar 3?", 0),
        (published.verl, "0", "How many bars has 0?", 1),
    ],
)
def test_placeholders_and_images(
    tmp_path: Path, write: Write, query_id: str, question: str, n_images: int
) -> None:
    query = read(write, tmp_path)[query_id]
    assert (query.question, len(query.images)) == (question, n_images)


@pytest.mark.parametrize(
    ("write", "query_id", "choices", "answer"),
    [
        (published.mmk12, "te1", ("first", "second", "third", "fourth"), "B"),
        (published.mmstar_parquet, "0", ("red", "blue", "1, 2 or 3", "none"), "A"),
        (published.mmstar_parquet, "3", None, "B"),
        (published.virl39k, "P-3", ("red", "blue"), "B"),
        (published.m3cot, "social-1", tuple("stuvwxy"), "G"),
        (published.m3cot, "social-4", ("B", "A"), "A"),
        (published.ai2d, "test-00000-of-00001:9", ("1", "0", "3", "2"), "A"),
        (published.mathverse, "1", ("60°", "45°", "30°"), "B"),
        (published.mathverse, "5", None, "B"),
    ],
)
def test_choices_in_a_column_or_in_the_question(
    tmp_path: Path, write: Write, query_id: str, choices: tuple[str, ...] | None, answer: str
) -> None:
    query = read(write, tmp_path)[query_id]
    assert (query.choices, query.answer, query.answer_type) == (choices, answer, "letter")


def test_pictures_inside_files_are_written_once_under_their_hash(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    path = published.mathverse(tmp_path / "data")
    load = reading(tmp_path)
    data = read_dataset(path, load)
    assert load.embedded is not None
    written = sorted(load.embedded.iterdir())
    assert [file.name for file in written] == sorted(f"{sha}.png" for sha in data.image_paths)
    before = [file.stat().st_mtime_ns for file in written]
    read_dataset(path, load)
    assert [file.stat().st_mtime_ns for file in written] == before
    assert "give a folder" in refusal(path)


def test_our_own_rows_may_hold_their_pictures(tmp_path: Path) -> None:
    images = pa.array([[{"bytes": png(3), "path": None}], None], pa.list_(IMAGE))
    table = pa.table({"question": ["a?", "b?"], "answer": ["1", "2"], "images": images})
    pq.write_table(table, tmp_path / "data.parquet")
    first, second = read_dataset(tmp_path / "data.parquet", reading(tmp_path)).queries
    assert first.images == (sha256_hex(png(3)),)
    assert second.images == ()


def test_any_other_data_with_pictures_and_answers(tmp_path: Path) -> None:
    rows = [
        {"question": f"{i}?", "answer": f"The answer is {i}.", "image": embedded(i)}
        for i in range(8)
    ]
    path = write_parquet(tmp_path / "data.parquet", rows)
    data = read_dataset(path, reading(tmp_path))
    assert [form.name for form in data.forms] == ["huggingface"]
    assert [query.answer for query in data.queries] == [str(i) for i in range(8)]


def test_an_archive_is_named_where_a_folder_is_needed(tmp_path: Path) -> None:
    path = published.mathv360k(tmp_path)
    with zipfile.ZipFile(tmp_path / "data_images.zip", "w") as archive:
        archive.writestr("data_images/x", b"")
    (tmp_path / "data_images").rename(tmp_path / "elsewhere")
    text = refusal(path)
    assert "data_images.zip" in text
    assert "have to be unpacked" in text
    assert len(text.splitlines()) == 1
    assert "an archive; unpack it" in refusal(tmp_path / "data_images.zip")


def test_images_lie_below_data_images_or_beside_the_data(tmp_path: Path) -> None:
    path = published.mathv360k(tmp_path, prefix="")
    assert len(read_dataset(path, reading(tmp_path)).queries) == 11


def test_an_unknown_format_says_what_was_looked_for(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "data.jsonl", [{"text": "How many?", "target": "3"}])
    text = refusal(file)
    assert "unknown format, with columns target, text" in text
    for form in FORMS.values():
        assert f"{form.name}: {form.says}" in text
    assert len(text.splitlines()) == 1


def test_a_named_format_has_to_fit(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "data.jsonl", [GOOD])
    assert "data.format = llava is told by a column conversations" in refusal(
        file, Reading(format="llava")
    )
    with pytest.raises(BadConfig, match=r"data\.format = lava: known are auto, own, llava"):
        load_dataset(file, Reading(format="lava"))
    assert load_dataset(file, Reading(format="own")).queries


def test_chat_messages_are_refused_once(tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": "How many?"}]}] * 30
    text = refusal(write_jsonl(tmp_path / "data.jsonl", rows))
    assert "chat messages" in text
    assert len(text.splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("data.csv", "pandas.read_csv"),
        ("data.zip", "an archive; unpack it"),
        ("data.txt", "a data file is .jsonl"),
    ],
)
def test_a_file_of_another_kind_says_which(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / name).write_text("x")
    assert words in refusal(tmp_path / name)
    assert "no .jsonl or .parquet file in this folder" in refusal(tmp_path)


@pytest.mark.parametrize("name", ["bench.tsv", "train.json"])
def test_a_folder_with_one_file_names_it(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("x")
    assert f"{tmp_path / name} may be one: give it as data.path" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "this file is empty"),
        ("[]", "holds no rows"),
        ("[{}", "it ends, or ',' is missing"),
        ('[{"question": "?"}] x', "something follows its end"),
        ('{"a" 1}', "':' is missing"),
        ("7", "neither a list nor an object"),
        ('{"question": "How many?", "answer": "3"}', "not a JSON object"),
    ],
)
def test_a_json_file_is_one_list_or_an_object_of_objects(
    tmp_path: Path, text: str, words: str
) -> None:
    (tmp_path / "data.json").write_text(text)
    assert words in refusal(tmp_path / "data.json")


def test_a_json_list_of_our_own_rows(tmp_path: Path) -> None:
    rows = [GOOD | {"question": f"{i}?"} for i in range(5)]
    (tmp_path / "data.json").write_text(json.dumps(rows))
    assert len(load_dataset(tmp_path / "data.json").queries) == 5


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("index\tindex\n1\t2\n", "two columns have the same name"),
        ("index\tquestion\tA\tB\n1\t?\tx\n", "3 cells, and the header has 4"),
        ("index\tquestion\n", "holds no rows"),
    ],
)
def test_a_broken_table(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "data.tsv").write_text(text)
    assert words in refusal(tmp_path / "data.tsv")


@pytest.mark.parametrize(
    "wrong", [{"conversations": "hello"}, {"conversations": [1]}, {"image": 7}]
)
def test_a_cell_of_another_type_is_named_by_its_row(tmp_path: Path, wrong: dict[str, Any]) -> None:
    path = published.mathv360k(tmp_path)
    rows = json.loads(path.read_text())
    rows[4] |= wrong
    path.write_text(json.dumps(rows))
    data = read_dataset(path, reading(tmp_path))
    assert 5 in {row.row for row in data.bad}


def test_bad_rows_up_to_a_count_are_left_out(tmp_path: Path) -> None:
    rows = [GOOD | {"question": f"{i}?"} for i in range(9)]
    file = write_jsonl(tmp_path / "data.jsonl", [*rows, {"question": "no answer?"}])
    assert "1 of 10 rows cannot be used" in refusal(file)
    data = load_dataset(file, Reading(max_bad_rows=1))
    assert len(data.queries) == 9
    assert [row.row for row in data.bad] == [10]
    assert any("left out because they cannot be used" in line for line in data.warnings)
    only_bad = write_jsonl(tmp_path / "bad.jsonl", [{"question": "no answer?"}])
    with pytest.raises(BadData, match="1 of 1 rows cannot be used"):
        load_dataset(only_bad, Reading(max_bad_rows=5))


def test_the_fixtures_pictures_differ() -> None:
    assert len({decode(picture(i)).tobytes() for i in range(120)}) == 120


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 99) | st.floats() | st.text(max_size=8)
    | st.binary(max_size=8) | st.sampled_from(["[", "['a', 'b']", "A", "<image>", "A. x\nB. y"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["bytes", "path", "from", "value"]), inner, max_size=2),
    max_leaves=4,
)  # fmt: skip


@pytest.mark.parametrize("form", FORMS.values(), ids=list(FORMS))
@given(data=st.data())
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_whatever_stands_in_a_published_row_it_is_a_row_or_a_problem(
    tmp_path: Path, form: Form, data: st.DataObject
) -> None:
    """Any cells under the columns of a form: a reader of it ends in rows or in `BadData`."""
    columns = COLUMNS_OF[form.name]
    row = {name: data.draw(ANYTHING, label=name) for name in columns}
    reader = RowReader(Problems(20), form.name, tmp_path / "pictures")
    table = tmp_path / "data.json"
    table.write_text(json.dumps([row], default=lambda cell: cell.hex()), encoding="utf-8")
    try:
        found = list(reader.read([(table, None)]))
    except BadData:
        return
    assert len(found) + len(reader.problems.by_place) == 1


COLUMNS_OF = {
    "llava": ("conversations", "image", "id"),
    "verl": ("prompt", "reward_model", "extra_info", "images"),
    "mmmu": ("question", "options", "image_1", "image_2", "answer", "id"),
    "mathvista": ("pid", "question", "question_type", "answer_type", "choices", "precision",
                  "unit", "answer", "metadata", "decoded_image"),
    "mathverse": ("question", "answer", "problem_version", "image", "query_wo"),
    "m3cot": ("question", "choices", "domain", "topic", "answer", "context", "image"),
    "mmstar": ("question", "answer", "l2_category", "meta_info", "image", "index"),
    "vlmevalkit": ("index", "question", "A", "B", "answer", "image"),
    "easyr1": ("problem", "answer", "images", "id"),
    "virl39k": ("question", "answer", "image", "qid"),
    "mmk12": ("question", "answer", "subject", "image"),
    "ai2d": ("question", "options", "answer", "image"),
    "huggingface": ("question", "answer", "image", "choices"),
}  # fmt: skip


def test_a_file_is_read_a_row_group_at_a_time(tmp_path: Path) -> None:
    """However large a file with pictures is, little of it is in memory."""
    cells = [{"bytes": Random(i).randbytes(100_000), "path": None} for i in range(20)]
    table = pa.table({"image": pa.array(cells, IMAGE)})
    with pq.ParquetWriter(tmp_path / "a.parquet", table.schema, use_dictionary=False) as writer:
        for _ in range(24):
            writer.write_table(table)
    del table
    before = pa.total_allocated_bytes()
    rows = read_table(tmp_path / "a.parquet", 0, Problems(1))
    held = [pa.total_allocated_bytes() - before for _ in rows]
    assert len(held) == 480
    assert max(held) < (tmp_path / "a.parquet").stat().st_size / 2
