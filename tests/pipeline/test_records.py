"""Records: what goes in comes out, equal rows are equal bytes, anything else is refused by name."""

from __future__ import annotations

import dataclasses
import math
import struct
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import CorruptObject
from pipeline.hashing import sha256_hex
from pipeline.records import RECORDS, Grade, Rollout, Score, Selected
from pipeline.storage.parquet import (
    Record,
    RecordError,
    column,
    describe,
    from_parquet,
    from_table,
    label_of,
    read_table,
    schema,
    table_bytes,
    to_parquet,
    to_table,
)

ROOT = Path(__file__).resolve().parents[2]

NAMES = [cls.__name__ for cls in RECORDS]

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
token = st.integers(0, 2**31 - 1)

float32 = st.floats(allow_nan=False, allow_infinity=False, width=32)

real = st.floats(allow_nan=False, allow_infinity=False)
whole = st.integers(-(2**63), 2**63 - 1)


@st.composite
def pairs(draw: st.DrawFn, left: st.SearchStrategy[Any], right: st.SearchStrategy[Any]) -> Any:
    size = draw(st.integers(0, 8))
    return tuple(
        tuple(draw(st.lists(item, min_size=size, max_size=size))) for item in (left, right)
    )


@st.composite
def records(draw: st.DrawFn, cls: type[Any]) -> Any:
    """A row with any value its columns can hold."""
    values: dict[str, Any] = {}
    by_type = {pa.string(): text, pa.int64(): whole, pa.float64(): real, pa.bool_(): st.booleans()}
    for field in schema(cls):
        if pa.types.is_list(field.type):
            continue
        kind = by_type[field.type]
        values[field.name] = draw(st.none() | kind if field.nullable else kind)
    if "token_ids" in schema(cls).names:
        values["token_ids"], values["logprobs"] = draw(pairs(token, float32))
        if "logprobs" not in schema(cls).names:
            del values["logprobs"]
    if "choices" in schema(cls).names:
        values["choices"], values["images"] = (
            tuple(draw(st.lists(text, max_size=4))) for _ in range(2)
        )
    if "step_ends" in schema(cls).names:
        values["step_ends"], numbers = draw(pairs(token, real))
        values["step_scores" if cls is Score else "values"] = numbers
    if "completions" in schema(cls).names:
        values["completions"] = values["step_ends"]
    return cls(**values)


def rollout(number: int = 0, **changes: Any) -> Rollout:
    row = Rollout(
        query=f"{number:064x}",
        query_id=f"train:{number}",
        sample_index=number % 4,
        seed=2**61 + number,
        policy="policy-0123456789abcdef",
        temperature=1.0,
        top_p=1.0,
        prompt_sha256="ab" * 32,
        prompt_tokens=17,
        token_ids=tuple(range(number, number + 5)),
        logprobs=(-0.5, -0.25, 0.0, -3.0, -1.0),
        text="A is 3.\n\n# Answer\n\n3",
        finish="stop",
    )
    return replace(row, **changes)


@pytest.mark.parametrize("cls", RECORDS, ids=NAMES)
@settings(max_examples=40)
@given(data=st.data())
def test_what_goes_in_comes_out(cls: type[Any], data: st.DataObject) -> None:
    rows = data.draw(st.lists(records(cls), max_size=6))
    stored = to_parquet(rows, cls)
    assert from_parquet(stored, cls) == rows
    assert to_parquet(from_parquet(stored, cls), cls) == stored


@pytest.mark.parametrize("cls", RECORDS, ids=NAMES)
def test_no_rows_are_rows_too(cls: type[Any]) -> None:
    assert from_parquet(to_parquet([], cls), cls) == []


def test_chunked_and_sliced_tables_give_the_same_rows() -> None:
    rows = [rollout(n) for n in range(10)]
    whole = to_table(rows, Rollout)
    pieces = pa.concat_tables([whole.slice(0, 3), whole.slice(3)])
    assert from_table(pieces, Rollout) == rows
    assert from_table(whole.slice(4, 3), Rollout) == rows[4:7]


def test_equal_rows_are_equal_bytes_in_another_process() -> None:
    rows = [rollout(n) for n in range(50)]
    code = (
        "from tests.pipeline.test_records import rollout, to_parquet, Rollout, sha256_hex\n"
        "print(sha256_hex(to_parquet((rollout(n) for n in range(50)), Rollout)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == sha256_hex(to_parquet(rows, Rollout))
    assert sha256_hex(to_parquet(rows[::-1], Rollout)) != done.stdout.strip()


def test_a_token_or_score_is_kept_to_the_last_bit() -> None:
    lowest = struct.unpack("f", struct.pack("f", -1e-40))[0]
    row = rollout(token_ids=(0, 2**31 - 1), logprobs=(lowest, -0.1 + 2**-60))
    (back,) = from_parquet(to_parquet([row], Rollout), Rollout)
    assert back.token_ids == row.token_ids
    assert back.logprobs == (lowest, struct.unpack("f", struct.pack("f", -0.1))[0])
    score = Score("q", 0, (3, 7), (0.1, 1e-300), 1e-300)
    assert from_parquet(to_parquet([score], Score), Score) == [score]


# --- what cannot be a row -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"logprobs": (-0.5, math.nan, 0.0, 0.0, 0.0)}, "logprobs: row 1 holds nan"),
        ({"logprobs": (-math.inf,) * 5}, "logprobs: row 1 holds -inf"),
        ({"temperature": math.inf}, "temperature: row 1 holds inf"),
        ({"logprobs": (-0.5,)}, "row 1 has 1 logprobs for 5 token_ids"),
        ({"token_ids": (1, 2, 3, 4, 2**31)}, "token_ids"),
        ({"token_ids": (1, 2, 3, 4, None)}, "token_ids: row 1 holds null"),
        ({"token_ids": None}, "token_ids: row 1 has no value"),
        ({"text": None}, "text: row 1 has no value"),
        ({"seed": 2**63}, "seed"),
        ({"sample_index": "first"}, "sample_index"),
        ({"query": 7}, "query"),
    ],
)
def test_what_cannot_be_a_row_is_named(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(RecordError, match=f"Rollout.*{why}"):
        to_parquet([rollout(), rollout(1, **changes), rollout(2)], Rollout)


def test_a_missing_score_is_an_error() -> None:
    with pytest.raises(RecordError, match=r"step_scores: row 0 holds nan"):
        to_parquet([Score("q", 0, (3, 7), (0.5, math.nan), 0.5)], Score)
    with pytest.raises(RecordError, match=r"1 step_scores for 2 step_ends"):
        to_parquet([Score("q", 0, (3, 7), (0.5,), 0.5)], Score)


# --- what is not the record asked for -------------------------------------------------------------


def test_another_record_is_refused_by_name() -> None:
    stored = to_parquet([Grade("q", 0, "correct", "3")], Grade)
    with pytest.raises(RecordError, match="this is Grade, not Rollout"):
        from_parquet(stored, Rollout)


def test_a_file_of_somebody_elses_is_refused() -> None:
    with pytest.raises(RecordError, match="no record of ours"):
        from_parquet(table_bytes(pa.table({"x": ["1"]})), Rollout)


def test_another_version_is_refused_and_says_what_to_do() -> None:
    table = to_table([rollout()], Rollout)
    later = table.replace_schema_metadata({"mstar.record": "Rollout", "mstar.version": "2"})
    with pytest.raises(RecordError, match="version 2, and this code reads version 1"):
        from_parquet(table_bytes(later), Rollout)


@pytest.mark.parametrize("change", ["drop", "retype", "add"])
def test_another_schema_under_the_same_version_is_refused(change: str) -> None:
    table = to_table([rollout()], Rollout)
    if change == "drop":
        other = table.drop_columns(["seed"])
    elif change == "retype":
        other = table.set_column(3, "seed", pa.array([1.0]))
    else:
        other = table.append_column("host", pa.array(["a"]))
    why = "in addition host" if change == "add" else "lacks seed int64"
    with pytest.raises(RecordError, match=why):
        from_parquet(table_bytes(other), Rollout)


@pytest.mark.parametrize("damage", ["empty", "cut", "not parquet"])
def test_bytes_that_are_not_parquet_are_corrupt(damage: str) -> None:
    stored = to_parquet([rollout()], Rollout)
    broken = {"empty": b"", "cut": stored[: len(stored) // 2], "not parquet": b"x" * 1000}[damage]
    with pytest.raises(CorruptObject, match="not parquet"):
        from_parquet(broken, Rollout)


def test_some_columns_can_be_read_alone() -> None:
    table = read_table(to_parquet([rollout(3)], Rollout), Rollout, ["seed", "finish"])
    assert table.to_pylist() == [{"seed": 2**61 + 3, "finish": "stop"}]


# --- the schema itself ----------------------------------------------------------------------------


def test_every_column_says_what_it_is_in_the_file_itself() -> None:
    stored = pq.read_schema(pa.BufferReader(to_parquet([rollout()], Rollout)))
    assert stored.metadata[b"mstar.record"] == b"Rollout"
    assert stored.metadata[b"mstar.version"] == b"1"
    assert stored.field("logprobs").metadata[b"unit"] == b"nats"
    for cls in RECORDS:
        for field in schema(cls):
            assert field.metadata[b"doc"], f"{cls.__name__}.{field.name}"


# A change of any of these is another version: bump VERSION, then this.
FINGERPRINTS = {
    "Asked": "1 query:string query_id:string split:string question:string "
    "choices:list<item: string not null> images:list<item: string not null> answer:string? "
    "answer_type:string unlabelled:bool source:string",
    "Rollout": "1 query:string query_id:string sample_index:int64 seed:int64 policy:string "
    "temperature:double top_p:double prompt_sha256:string prompt_tokens:int64 "
    "token_ids:list<item: int32 not null> logprobs:list<item: float not null> "
    "text:string finish:string",
    "Grade": "1 query:string sample_index:int64 outcome:string extracted:string?",
    "AnswerClass": "1 query:string sample_index:int64 equals:int64?",
    "Score": "1 query:string sample_index:int64 step_ends:list<item: int32 not null> "
    "step_scores:list<item: double not null> reward_p:double",
    "StepValues": "1 query:string query_id:string sample_index:int64 rollout_shard:string "
    "prompt_sha256:string prompt_tokens:int64 correct:bool held_out:bool "
    "token_ids:list<item: int32 not null> step_ends:list<item: int32 not null> "
    "values:list<item: double not null> completions:list<item: int32 not null>",
    "Selected": "1 query:string query_id:string sample_index:int64 rollout_shard:string "
    "token_ids:list<item: int32 not null> logprobs:list<item: float not null> "
    "prompt_sha256:string reward:double",
}


@pytest.mark.parametrize("cls", RECORDS, ids=NAMES)
def test_a_schema_does_not_change_without_its_version(cls: type[Record]) -> None:
    columns = [f"{f.name}:{f.type}{'?' if f.nullable else ''}" for f in schema(cls)]
    assert f"{cls.VERSION} {' '.join(columns)}" == FINGERPRINTS[label_of(cls)]


def test_a_new_record_is_one_dataclass() -> None:
    @dataclass(frozen=True, slots=True)
    class Label:
        """A Monte-Carlo label."""

        VERSION: ClassVar[int] = 3
        query: str = column("whose")
        right: bool = column("reached the gold answer")
        note: str | None = column("anything")

    rows = [Label("q", True, None), Label("r", False, "x")]
    assert from_parquet(to_parquet(rows, Label), Label) == rows
    assert "| `right` | bool |" in describe(Label)


def test_rows_are_immutable() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        rollout().text = "better"  # type: ignore[misc]


def test_the_docs_list_every_column() -> None:
    page = (ROOT / "docs" / "storage.md").read_text()
    for cls in RECORDS:
        assert describe(cls) in page, f"docs/storage.md: the table of {cls.__name__} is stale"


# --- read as they are by others -------------------------------------------------------------------


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    path = tmp_path / "shard.parquet"
    path.write_bytes(to_parquet([rollout(n) for n in range(8)], Rollout))
    return path


def test_pandas_reads_them(shard: Path) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.read_parquet(shard)
    assert frame.groupby("sample_index")["prompt_tokens"].sum().to_dict() == dict.fromkeys(
        range(4), 34
    )
    assert list(frame.token_ids[3]) == [3, 4, 5, 6, 7]


def test_duckdb_reads_them(shard: Path) -> None:
    import duckdb

    query = f"SELECT finish, count(*), avg(len(token_ids)) FROM '{shard}' GROUP BY ALL"
    assert duckdb.execute(query).fetchall() == [("stop", 8, 5.0)]


def test_datasets_reads_them(shard: Path, tmp_path: Path) -> None:
    import datasets

    loaded = datasets.load_dataset(
        "parquet", data_files=str(shard), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert loaded[5]["token_ids"] == [5, 6, 7, 8, 9]
    assert loaded[5]["seed"] == 2**61 + 5


def test_selected_rows_carry_what_the_learner_needs() -> None:
    row = Selected("q", "train:1", 2, "shards/rollout/k/h.parquet", (5, 6), (-1.0, -2.0), "p", 1.0)
    assert from_parquet(to_parquet([row], Selected), Selected) == [row]
