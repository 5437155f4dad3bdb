"""The queries of a run, kept in the store beside what was made from them.

A run's ledger, its objects and this table are all that an audit needs: hashes in other records get
their meaning back, and its plan (which shards, which jobs) can be derived again, offline.
"""

from __future__ import annotations

from typing import cast, get_args

from pipeline.config.load import stored_config
from pipeline.errors import CorruptObject
from pipeline.generation.shards import EngineIdentity
from pipeline.hashing import key_of
from pipeline.query import AnswerType, Query
from pipeline.records import QueryRow
from pipeline.run.events.event import Event
from pipeline.run.events.lifecycle import RunCreated
from pipeline.run.spec import RunSpec
from pipeline.storage.artifacts import inspect_rows, put_content
from pipeline.storage.parquet import to_parquet
from pipeline.storage.store import Store

STAGE = "queries"


def store_queries(store: Store, spec: RunSpec) -> str:
    """Put the queries of a run into the store; where they lie."""
    rows = [_row(split, query) for split, part in spec.splits.items() for query in part]
    key = key_of(STAGE, spec.fingerprint["splits"])
    return put_content(store, STAGE, key, to_parquet(rows, QueryRow), "parquet")


def _row(split: str, query: Query) -> QueryRow:
    return QueryRow(
        query=query.content_hash,
        query_id=query.query_id,
        split=split,
        question=query.question,
        choices=query.choices or (),
        images=query.images,
        answer=query.answer,
        answer_type=query.answer_type,
        unlabelled=query.unlabelled,
        source=query.source,
    )


def _query(row: QueryRow) -> Query:
    if row.answer_type not in get_args(AnswerType):
        raise CorruptObject(f"query {row.query_id} has answer type {row.answer_type!r}")
    query = Query(
        query_id=row.query_id,
        images=row.images,
        question=row.question,
        choices=row.choices or None,
        answer=row.answer,
        answer_type=cast(AnswerType, row.answer_type),
        unlabelled=row.unlabelled,
        source=row.source,
        split=row.split,
    )
    if query.content_hash != row.query:
        raise CorruptObject(f"query {row.query_id} does not hash to its name {row.query}")
    return query


def spec_of(store: Store, created: Event) -> RunSpec:
    """The spec of a run, from its `run_created` event and the queries that it names.

    Raises:
        StoreMissing, CorruptObject: the queries are gone, or not those that the event is about.
    """
    if not isinstance(created, RunCreated):
        raise CorruptObject(f"the ledger begins with a {created.type} event: it has no run_created")
    path = created.queries
    splits: dict[str, list[Query]] = {}
    for row in inspect_rows(store, path, QueryRow):
        splits.setdefault(row.split, []).append(_query(row))
    data = created.data
    spec = RunSpec(
        config=stored_config(created.config),
        splits={name: tuple(part) for name, part in splits.items()},
        engine=EngineIdentity(**data["engine"]),
        grader=data["grader"],
    )
    if spec.fingerprint["splits"] != data["splits"]:
        raise CorruptObject(
            f"{store.url}: {path} does not hold the queries that the run began with"
        )
    return spec
