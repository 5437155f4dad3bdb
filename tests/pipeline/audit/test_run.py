"""The audit: clean runs are clean, every damaged byte is named, and a ledger that lies is found."""

from __future__ import annotations

import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from pipeline.audit.diff import first_difference
from pipeline.audit.run import Problem, audit
from pipeline.audit.trace import trace
from pipeline.errors import BadConfig, CorruptObject
from pipeline.records import Selected
from pipeline.run.events.sampling import SamplingClosed
from pipeline.run.events.wire import from_wire
from pipeline.run.ledger import Ledger
from pipeline.run.state import State
from pipeline.run.stored import StoredRun
from pipeline.storage.artifacts import put_content
from pipeline.storage.parquet import from_parquet, to_parquet
from pipeline.storage.store import Store, open_store
from tests.support.audited import IMAGE, Objects, make_run, rewritten, store_of
from tests.support.chaos_memory import Damage, damaged
from tests.support.chaos_world import RUN, Lives
from tests.support.jobs import mstar


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Objects:
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture
def store(objects: Objects) -> Store:
    return store_of(objects)


def on_disk(objects: Objects, folder: Path) -> str:
    for path, data in objects.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return str(folder)


def run_job(*args: str) -> tuple[int, str]:
    done = mstar("audit", *args)
    return done.exit_code, done.output


def test_a_finished_run_is_clean(objects: Objects, store: Store) -> None:
    report = audit(store, RUN)
    assert report.problems == []
    assert report.finished
    kinds = ("ledger", "snapshots", "lease")
    held = {path.split("/")[2][:64] for path in objects if path.startswith("checkpoints")}
    trees = {path.split("/")[2][:64] for path in objects if path.startswith("policies")} | held
    single = [path for path in objects if path.startswith(("shards/", "images/"))]
    snapshots = [path for path in objects if path.startswith(f"runs/{RUN}/{kinds[1]}")]
    assert report.objects == len(trees) + len(single) + len(snapshots)
    assert {path: store.get(path) for path in store.list()} == objects


@pytest.mark.parametrize("how", ["flip", "cut", "empty", "remove"])
@pytest.mark.parametrize(
    "start",
    [
        "shards/queries",
        "shards/rollout",
        "shards/grade",
        "shards/select",
        "policies/",
        "checkpoints/",
        "images/",
        f"runs/{RUN}/ledger",
        f"runs/{RUN}/snapshots",
    ],
)
def test_every_damage_to_every_kind_of_object_is_named(
    objects: Objects, start: str, how: Damage
) -> None:
    """Each object of the kind in turn, or a few of many; and nothing in the store is changed."""
    places = [path for path in objects if path.startswith(start)]
    if how == "remove" and start.endswith("snapshots"):
        pytest.skip("a snapshot is an optimisation: nothing says that there must be one")
    for place in {places[0], places[len(places) // 2], places[-1]}:
        store = store_of(objects)
        left = damaged(objects[place], how, 123)
        if left is None:
            store.delete(place)
        else:
            store.replace(place, left)
        before = {path: store.get(path) for path in store.list()}
        found = [str(problem) for problem in audit(store, RUN).problems]
        name = place.removesuffix(".manifest.json")
        assert any(name in line for line in found), (place, found)
        assert {path: store.get(path) for path in store.list()} == before


def test_a_missing_last_entry_is_found_by_the_lease(objects: Objects, store: Store) -> None:
    last = max(path for path in objects if "/ledger/" in path)
    lease = max(path for path in objects if "/lease/" in path)
    tenure = json.loads(store.get(lease))
    store.replace(lease, json.dumps(tenure | {"position": int(last[-15:-5])}).encode())
    store.delete(last)
    assert [problem.path for problem in audit(store, RUN).problems] == [last]


def test_a_rewritten_ledger_that_tells_the_same_is_clean(objects: Objects) -> None:
    assert audit(rewritten(objects, lambda event: None), RUN).clean


def of_selection(store: Store, purpose: str = "") -> dict[str, Any]:
    """An event about a shard of which something was selected."""
    return next(
        event
        for event in Ledger(store, RUN).replay()
        if event["type"] == "shard_graded" and event["selected"] and event["coverage"]["kept"]
        and event["purpose"].startswith(purpose)
    )  # fmt: skip


def reselected(objects: Objects, store: Store, path: str, other: str | None) -> list[Problem]:
    """The audit of the run where every event names another selection in place of this one."""

    def change(event: dict[str, Any]) -> None:
        if event.get("selected") == path:
            event["selected"] = other

    added = {} if other is None else {other: store.get(other)}
    return audit(rewritten(objects | added, change), RUN).problems


def swap_row(store: Store, path: str, **changes: Any) -> str:
    rows = from_parquet(store.get(path), Selected)
    rows[0] = replace(rows[0], **changes)
    return put_content(store, "select", path.split("/")[2], to_parquet(rows, Selected), "parquet")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"token_ids": (1,), "logprobs": (-1.0,)}, "is not what was sampled"),
        ({"rollout_shard": "shards/rollout/other"}, "is not of this shard"),
        ({"sample_index": 77}, "is not of this shard"),
    ],
)
def test_a_selected_row_that_was_never_sampled_is_found(
    objects: Objects, store: Store, changes: dict[str, Any], why: str
) -> None:
    path = of_selection(store)["selected"]
    other = swap_row(store, path, **changes)
    problems = reselected(objects, store, path, other)
    assert any(problem.path == other and why in problem.what for problem in problems), problems
    # and the job that followed was not asked to train on it
    assert any("did not train what the plan asks for" in problem.what for problem in problems)


def test_a_selection_that_the_rule_does_not_make_is_found(objects: Objects, store: Store) -> None:
    """Every row of it is correct and was sampled, and yet one more was to be kept."""
    path = of_selection(store)["selected"]
    data = to_parquet(from_parquet(store.get(path), Selected)[1:], Selected)
    other = put_content(store, "select", path.split("/")[2], data, "parquet")
    problems = reselected(objects, store, path, other)
    found = [problem.what for problem in problems if problem.path == other]
    assert found == ["it does not hold what all_correct keeps of its shard"]


def test_a_shard_that_nothing_was_selected_of_is_found(objects: Objects, store: Store) -> None:
    event = of_selection(store)
    problems = reselected(objects, store, event["selected"], None)
    found = [problem.what for problem in problems if problem.path == event["grades"]]
    assert found == ["nothing of it was selected, which all_correct is for"]


@pytest.mark.parametrize(
    ("kind", "field", "value", "why"),
    [
        ("shard_accepted", "rows", 1, "counts other rows"),
        ("shard_accepted", "key", "question-0000000000000000", "which no plan asks for"),
        ("job_done", "key", "learn-0000000000000000", "did not train what the plan asks for"),
        ("sampling_closed", "purpose", "evolve/7", "which no plan asks for"),
        ("warmup_chosen", "name", "base", "the evaluations choose another"),
        ("evaluated", "grades", [], "names other grades"),
        ("evaluated", "split", "elsewhere", "an evaluation that no plan asks for"),
        ("finished", "final", "base", "not what validation chooses"),
    ],
)
def test_an_event_that_lies_is_found(
    objects: Objects, kind: str, field: str, value: Any, why: str
) -> None:
    def change(event: dict[str, Any]) -> None:
        if event["type"] == kind:
            event[field] = value

    problems = audit(rewritten(objects, change), RUN).problems
    assert any(why in problem.what for problem in problems), problems


@pytest.mark.parametrize(
    ("kind", "inside", "field", "why"),
    [
        ("evaluated", "result", "n", "are not what its grades give"),
        ("evaluated", "result", "timeouts", "are not what its grades give"),
        ("iteration_closed", "row", "greedy", "has another greedy"),
        ("iteration_closed", "row", "steps", "has another steps"),
        ("iteration_closed", "row", "generate_s", "has another generate_s"),
    ],
)
def test_a_figure_that_lies_is_found(
    objects: Objects, kind: str, inside: str, field: str, why: str
) -> None:
    def change(event: dict[str, Any]) -> None:
        if event["type"] == kind:
            event[inside][field] += 1

    problems = audit(rewritten(objects, change), RUN).problems
    assert any(why in problem.what for problem in problems), problems


@pytest.mark.parametrize("told", ["sums of all", "sums of the rest"])
def test_a_shard_that_was_left_out_is_found(objects: Objects, told: str) -> None:
    """Nothing tells of the last shard of an iteration, and what was trained on is without it."""
    events = list(Ledger(store_of(objects), RUN).replay())
    of_purpose = [e for e in events if e.get("purpose") == "evolve/0"]
    last = max(event["index"] for event in of_purpose if event["type"] == "shard_accepted")
    state = State()
    for event in events:
        state.apply(from_wire(event))
        if event["type"] == "sampling_closed" and event["purpose"] == "evolve/0":
            break
    rest = {i: shard for i, shard in state.shards["evolve/0"].items() if i != last}

    def change(event: dict[str, Any]) -> bool:
        if event.get("purpose") == "evolve/0" and event["type"] == "sampling_closed":
            sums = SamplingClosed.of("evolve/0", rest).to_wire()
            if told == "sums of the rest":
                event.update({name: sums[name] for name in ("coverage", "rows", "tokens")})
        return (event.get("purpose"), event.get("index")) != ("evolve/0", last)

    problems = [problem.what for problem in audit(rewritten(objects, change), RUN).problems]
    assert f"closes evolve/0, and of its shards these are not done: {last}" in problems
    lied = "closes evolve/0 with other sums than those of its shards"
    assert (lied in problems) == (told == "sums of all")


def test_another_answer_makes_the_grades_anothers(objects: Objects) -> None:
    def change(event: dict[str, Any]) -> None:
        if event["type"] == "run_created":
            event["data"] = {**event["data"], "grader": "scripted-2"}

    problems = audit(rewritten(objects, change), RUN).problems
    assert any("another grader made it" in problem.what for problem in problems)


# --- trace ----------------------------------------------------------------------------------------


def a_sample(store: Store) -> tuple[str, Selected]:
    event = of_selection(store, "evolve/1")
    return event["purpose"], from_parquet(store.get(event["selected"]), Selected)[0]


def test_a_sample_is_traced_to_its_origins(store: Store) -> None:
    purpose, row = a_sample(store)
    (origin,) = trace(StoredRun(store, RUN), f"{purpose}:{row.query_id}/{row.sample_index}")
    assert origin["images"] == [{"path": f"images/{sha256(IMAGE).hexdigest()}", "bytes": 21}]
    assert origin["query"]["question"] == f"train: what is {row.query_id[6:]}?"
    assert origin["policy"]["names"] == ["evolve/0"]
    assert origin["grade"]["outcome"] == "correct"
    assert origin["grade"]["extracted"] == origin["grade"]["gold"]
    assert [job["job"] for job in origin["trained_by"]] == ["evolve/1"]
    assert origin["sampling"]["seed"] > 0
    assert origin["score"] is None
    by_hash = trace(StoredRun(store, RUN), f"{purpose}:{row.query[:12]}/{row.sample_index}")
    assert by_hash == [origin]


def test_a_trace_over_a_damaged_object_stops(store: Store) -> None:
    purpose, row = a_sample(store)
    store.replace(f"images/{sha256(IMAGE).hexdigest()}", b"another image")
    with pytest.raises(CorruptObject, match="images/"):
        trace(StoredRun(store, RUN), f"{purpose}:{row.query_id}/{row.sample_index}")


@pytest.mark.parametrize("sample", ["train-1", "train-1/x", "nobody/0", "evolve/1:train-1/99"])
def test_an_unknown_sample_says_so(objects: Objects, sample: str) -> None:
    with pytest.raises(BadConfig, match="sample"):
        trace(StoredRun(store_of(objects), RUN), sample)


# --- diff -----------------------------------------------------------------------------------------


def test_two_runs_of_one_plan_did_the_same(objects: Objects, tmp_path: Path) -> None:
    lives = Lives(tmp_path)
    lives.live(lives.crash_at(100), seed=3, twice=0.3, slow=0.5)
    assert lives.live(seed=9) is not None
    other = Lives(tmp_path)
    assert other.live() is not None
    assert first_difference(lives.events(), other.events()) is None


def test_two_runs_part_where_they_part(objects: Objects) -> None:
    events = list(Ledger(store_of(objects), RUN).replay())
    found = first_difference(events, events[:-1])
    assert found is not None
    assert found.details == ("the second run ends before it",)
    graded = next(
        number
        for number, event in enumerate(events)
        if event["type"] == "shard_graded" and event["purpose"] == "evolve/1"
    )
    other = [dict(event) for event in events]
    other[graded]["selected"] = "shards/select/x/y.parquet"
    found = first_difference(events, other)
    assert found is not None
    assert found.name == f"shard {events[graded]['index']} of evolve/1"
    assert "selected" in str(found)


# --- the command ----------------------------------------------------------------------------------


def test_the_command_says_what_it_found(objects: Objects, tmp_path: Path) -> None:
    url = on_disk(objects, tmp_path / "store")
    code, said = run_job(url)
    assert (code, said.splitlines()[-1]) == (0, "clean")
    purpose, row = a_sample(open_store(url))
    code, said = run_job(url, "--trace", f"{purpose}:{row.query_id}/{row.sample_index}")
    assert code == 0
    assert f"query_id: '{row.query_id}'" in said
    victim = next(path for path in objects if path.startswith("policies/"))
    (Path(url) / victim).write_bytes(b"")
    code, said = run_job(url, "--run", RUN)
    assert code == 1
    assert victim.split("/")[2][:64] in said
    assert run_job(url, "--run", "nobody")[0] == 2
    assert run_job(url, "--trace", "nobody/0")[0] == 2


def test_the_command_compares_runs_of_two_stores(objects: Objects, tmp_path: Path) -> None:
    one = on_disk(objects, tmp_path / "one")
    two = on_disk(make_run(tmp_path / "w", run={"name": RUN, "seed": 1}), tmp_path / "two")
    assert run_job(one, "--diff", RUN, RUN) == (0, f"{RUN} and {RUN} did the same\n")
    code, said = run_job(one, "--diff", RUN, RUN, "--other", two)
    assert code == 1
    assert "run.seed: 0 -> 1" in said
    assert "the runs part at" in said
