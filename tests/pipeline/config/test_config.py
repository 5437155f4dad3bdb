"""Configurations: what is refused, what it says, what a resume may change."""

import subprocess
import sys
from pathlib import Path

import pytest

from jobs.runtime.recipes import RECIPES, load_recipe
from pipeline.config.checks import check_data, check_machine
from pipeline.config.fields import BEFORE, fields, to_dict
from pipeline.config.load import config_from_dict, load_config, stored_config
from pipeline.config.resume import check_resume, config_hash, diff
from pipeline.errors import BadConfig

NAMES = sorted(path.stem for path in RECIPES.glob("*.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_recipes_load_and_round_trip(name: str) -> None:
    config = load_recipe(name)
    assert config_from_dict(to_dict(config)) == config


def test_every_open_choice_is_marked_in_the_cluster_recipe() -> None:
    lines = (RECIPES / "cluster.yaml").read_text().splitlines()
    marked: dict[str, list[str]] = {}
    section = ""
    for line in lines:
        key, _, rest = line.partition(":")
        section = section if line.startswith((" ", "#")) else key
        if "[open]" in rest and "#" not in key:
            marked.setdefault(section, []).append(key.strip())
    assert marked == {
        "run": ["seed"],
        "warmup": ["samples", "temperature", "learning_rate"],
        "generate": ["top_p", "max_new_tokens", "max_model_len", "precision", "shard_queries"],
        "prm": ["queries", "samples", "pairs", "completions", "labels", "loss", "learning_rate",
                "epochs", "scoring"],
        "learn": ["schedule_rise", "window", "beta1", "beta2", "epsilon", "weight_decay",
                  "max_grad_norm", "precision", "logprob_tolerance", "zero_stage"],
    }  # fmt: skip
    # What a rule decides, and no key.
    assert any("[open] checkpoint selection" in line for line in lines)


def test_every_field_explains_itself() -> None:
    bare = [key for key, info in fields() if not info.description or len(info.description) < 10]
    assert bare == []


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("generate.sampels=4", ["'generate.sampels'", "'generate.samples'"]),
        ("generat.samples=4", ["'generat'", "'generate'"]),
        ("learn.shard_queries=4", ["'learn.shard_queries'", "'generate.shard_queries'"]),
        ("generate.samples=0", ["generate.samples", "0", "greater than or equal to 1"]),
        ("generate.samples=many", ["generate.samples", "many"]),
        ("learn.zero_stage=7", ["learn.zero_stage"]),
        ("learn.learning_rate=.nan", ["learn.learning_rate"]),
        ("run.name=../x", ["run.name"]),
        ("generate.top_p=0", ["generate.top_p"]),
        ("generate", ["section.key=value"]),
        ("run.seed.deep=1", ["'seed' is a value"]),
        ("run.seed=[1", ["not YAML"]),
    ],
)
def test_a_bad_override_names_the_key(override: str, words: list[str]) -> None:
    with pytest.raises(BadConfig) as caught:
        load_recipe("tiny", [override])
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["select.rule=top_k"], ["select.rule", "select.reward=prm", "select.by=logprob"]),
        (["select.rule=threshold"], ["select.rule", "select.reward=prm", "select.by=logprob"]),
        (["select.reward=prm", "prm.kind=tag"], ["prm.kind", "prm.path"]),
        (
            ["select.reward=prm", "prm.path=x", "prm.log_likelihood=true"],
            ["prm.log_likelihood", "prm.path"],
        ),
        (["select.rule=random_k", "select.k=9"], ["select.k = 9", "generate.samples = 4"]),
        (["warmup.keep=3"], ["warmup.keep = 3", "warmup.samples = 2"]),
        (["warmup.checkpoint=x"], ["warmup.checkpoint", "evolve.control"]),
        (["generate.max_model_len=96"], ["generate.max_new_tokens", "generate.max_model_len"]),
        (["generate.engines=4"], ["generate.lookahead = 3", "generate.engines = 4"]),
        (["learn.schedule=cosine", "run.rules=1"], ["learn.schedule_steps"]),
        (
            ["learn.schedule=linear", "learn.schedule_steps=270"],
            ["learn.schedule_steps = 270", "leave it out", "learn.schedule_share"],
        ),
        (
            ["learn.schedule=linear", "learn.schedule_share=0.5"],
            ["learn.schedule_share = 0.5", "be 0 for the last 50% of the run"],
        ),
        (["select.rule=threshold", "select.by=logprob"], ["select.by = logprob", "select.by=prm"]),
        (["learn.ranks=17"], ["learn.ranks = 17", "learn.batch_size = 16"]),
        (["learn.window=1"], ["learn.window = 1"]),
        (["data.test=[train]"], ["disjoint", "train"]),
        (
            ["explore.every=2", "explore.by=pass_at_k", "explore.grid=[1.0]"],
            ["explore.grid = [1.0]", "a grid of one temperature", "give two or more"],
        ),
        (["dynamics.grid=[0.5, 0.5]"], ["dynamics.grid", "0.5 more than once"]),
        (
            ["explore.every=2", "select.rule=top_k", "select.by=logprob", "explore.samples=2"],
            ["explore.samples = 2", "sample 3 or more"],
        ),
        (
            ["explore.every=2"],
            ["explore.by = reward_pass_2", "select.reward=prm", "explore.by=pass_at_k"],
        ),
    ],
)
def test_impossible_combinations_name_their_keys(overrides: list[str], words: list[str]) -> None:
    with pytest.raises(BadConfig) as caught:
        load_recipe("tiny", overrides)
    for word in words:
        assert word in str(caught.value)


def test_all_problems_are_listed_at_once() -> None:
    with pytest.raises(BadConfig) as caught:
        load_recipe("tiny", ["generate.samples=0", "learn.nope=1", "run.seed=-1"])
    assert len(str(caught.value).splitlines()) == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- 1\n", "a mapping of sections, not a list"),
        ("{", "not a YAML file"),
        ("\n# run:\n", "holds no settings"),
        ("run:\n  seed: 1\n  out: x\n  seed: 2\n", "'seed' stands in line 2 and in line 4"),
        ("run: {}\ndata: {}\nrun: {}\n", "'run' stands in line 1 and in line 3"),
        ("prm:\n  surprise: true\n", "'prm.surprise' is called 'prm.log_likelihood' now"),
        (b"\xff", "not a YAML file"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, text: str | bytes, words: str) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(BadConfig) as caught:
        load_recipe(bad)
    assert words in str(caught.value)
    assert str(bad) in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    loop = tmp_path / "loop.yaml"
    loop.symlink_to(loop)
    with pytest.raises(BadConfig, match=r"loop\.yaml: cannot be read: "):
        load_config(loop)


def test_a_mistake_is_blamed_on_who_made_it(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("learn:\n  nope: 1\n")
    with pytest.raises(BadConfig) as caught:
        load_recipe(file, ["run.seed=-1", "run={name: 3}"])
    blamed = [line.partition(": ")[0] for line in str(caught.value).splitlines()]
    assert blamed == ["--set run={name", str(file)]


def test_recipes_are_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadConfig, match=r"'digist': did you mean 'digits'\? .* cluster, digits, "):
        load_recipe("digist")
    with pytest.raises(BadConfig, match="this is a folder"):
        load_recipe(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()  # a folder of that name is in nobody's way
    assert load_recipe("tiny").run.name == "tiny"


def test_a_ledger_keeps_its_settings_under_the_names_that_they_had() -> None:
    """Hashes of the recipes as the code before the renaming gave them, by the decisions of then."""
    then = ["run.rules=1", "select.otherwise=random"]
    changed = {"digits": ["learn.schedule_steps=270"]}
    hashes = {
        name: config_hash(load_recipe(name, then + changed.get(name, [])))
        for name in ("tiny", "digits", "chaos")
    }
    assert hashes == {
        "tiny": "ceb42a931e3d94d7", "digits": "e97cbe4da1e688d4", "chaos": "90c7dc3bd789665f",
    }  # fmt: skip
    config = load_recipe("digits")
    plain = to_dict(config)
    plain["prm"]["surprise"] = plain["prm"].pop("log_likelihood")
    assert stored_config(plain) == config
    plain["learn"]["schedule_steps"] = 270
    for key in BEFORE:
        section, _, leaf = key.partition(".")
        del plain[section][leaf]
    assert stored_config(plain).run.rules == 1, "a ledger that says nothing is of the first"
    with pytest.raises(BadConfig, match=r"ledger, which another version.*'run\.later'"):
        stored_config(plain | {"run": {"later": 1}})


def test_overrides_take_yaml_values(tmp_path: Path) -> None:
    empty = tmp_path / "empty.yaml"
    empty.write_text("run: {}")
    config = load_recipe(empty, ["data.test=[a, b]", "warmup.queries=", "learn.learning_rate=1e-4"])
    assert config.data.test == ("a", "b")
    assert config.warmup.queries is None
    assert config.learn.learning_rate == 1e-4


def test_the_hash_ignores_what_is_free_and_nothing_else() -> None:
    base = load_recipe("tiny")
    assert config_hash(load_recipe("tiny", ["generate.engines=2", "run.out=x"])) == config_hash(
        base
    )
    for override in ("run.seed=1", "learn.ranks=2", "data.path=x"):
        assert config_hash(load_recipe("tiny", [override])) != config_hash(base)


def test_resume_refuses_what_changes_the_meaning_and_says_the_rest() -> None:
    old = load_recipe("tiny")
    new = load_recipe("tiny", ["run.out=x", "generate.engines=2", "run.console=plain"])
    assert check_resume(old, new) == []
    said = check_resume(old, load_recipe("tiny", ["learn.ranks=2"]))
    assert [change.key for change in said] == ["learn.ranks"]
    assert "bit-identical" in str(said[0])
    with pytest.raises(BadConfig) as caught:
        check_resume(old, load_recipe("tiny", ["run.seed=1", "generate.temperature=0.5"]))
    assert "run.seed: 0 -> 1" in str(caught.value)
    assert "generate.temperature" in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "kind"),
    [
        ("run.seed", 7, "meaning"),
        ("run.out", "x", "free"),
        ("learn.micro_batch", 1, "noted"),
        ("data.test", ["a"], "meaning"),
        ("data.path", "x", "noted"),
        ("warmup.queries", None, "meaning"),
        ("grade.deadline_s", 1.0, "meaning"),
    ],
)
def test_diff_sees_one_leaf_and_its_kind(key: str, value: object, kind: str) -> None:
    config = load_recipe("tiny")
    plain = to_dict(config)
    section, leaf = key.split(".")
    plain[section][leaf] = value
    changes = diff(config, config_from_dict(plain))
    assert [(change.key, change.kind) for change in changes] == [(key, kind)]
    assert diff(config, config) == []


def test_the_machine_must_be_able_to_place_every_role() -> None:
    check_machine(load_recipe("tiny"), cpus=2, gpus=0)
    for overrides, word in [
        (["learn.ranks=3"], "learn.ranks = 3"),
        (["learn.ranks=3", "cluster.cpus_per_rank=0.1"], "learn.ranks = 3"),
        (["learn.ranks=2", "cluster.cpus_per_rank=2"], "cluster.cpus_per_rank = 4"),
        (["generate.engines=3"], "cluster.cpus_per_engine = 3"),
        (["cluster.gpus_per_engine=1"], "GPUs"),
        (["cluster.gpus_per_rank=1"], "cluster.gpus_per_rank"),
        (["prm.scorers=3", "select.reward=prm"], "prm.scorers x cluster.cpus_per_engine = 3"),
        (["cluster.engine_resource=spot"], "cluster.engine_resource = spot: a private Ray"),
        (["cluster.rank_resource=x"], "cluster.rank_resource = x: a private Ray"),
    ]:
        with pytest.raises(BadConfig) as caught:
            check_machine(load_recipe("tiny", overrides), cpus=2, gpus=0)
        assert word in str(caught.value)


def test_gpus_are_held_by_all_roles_at_once() -> None:
    config = load_recipe("cluster", ["policy.path=x", "data.path=y"])
    check_machine(config, cpus=200, gpus=16)
    with pytest.raises(BadConfig, match=r"prm\.scorers \(3\) .* = 16, but there are 15 GPUs"):
        check_machine(config, cpus=200, gpus=15)


def test_the_data_must_hold_what_is_asked() -> None:
    sizes = {"train": 128, "validation": 24, "test": 24, "ood": 24}
    for key in ("data.train", "data.validation"):
        with pytest.raises(BadConfig, match=rf"{key} = dev: .* it has ood \(24\), test \(24\)"):
            check_data(load_recipe("tiny", [f"{key}=dev"]), sizes)


def test_counts_are_limits_and_a_missing_test_split_is_left_out() -> None:
    sizes = {"train": 128, "validation": 24, "test": 24, "ood": 24}
    assert check_data(load_recipe("tiny"), sizes) == []
    for overrides, words in [
        (["data.validation_queries=25"], "data.validation_queries = 25, there are 24"),
        (["data.test_queries=25"], "data.test_queries (test) = 25, there are 24"),
        (["data.train_queries=129"], "data.train_queries = 129, there are 128"),
        (["data.train_queries=32"], "warmup.queries = 64, there are 32"),
        (["prm.queries=129", "select.reward=prm"], "prm.queries = 129, there are 128"),
        (["data.test=[test, ood, far]"], "the data has no split 'far', which is left out"),
    ]:
        notes = check_data(load_recipe("tiny", overrides), sizes)
        assert any(words in note for note in notes), notes
    assert check_data(load_recipe("tiny", ["prm.queries=129", "select.reward=binary"]), sizes) == []


def test_importing_the_configuration_loads_nothing_heavy() -> None:
    code = (
        "import sys, pipeline.config.load;"
        "print([m for m in ('ray','torch','vllm','transformers','deepspeed','sympy','s3fs')"
        " if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["cluster.min_engines=2"], "cluster.min_engines = 2 is more than generate.engines = 1"),
        (["cluster.min_scorers=9"], "cluster.min_scorers = 9 is more than prm.scorers = 1"),
        (["cluster.gpus_per_rank=0.5", "learn.ranks=2"], "two ranks cannot share a GPU"),
        (["cluster.gpus_per_engine=1.5"], "give a share of one GPU, or whole ones"),
        (["cluster.gpus_per_engine=0.5"], "lower that to 0.5 or less"),
    ],
)
def test_sizes_and_shares_that_cannot_be_are_refused(overrides: list[str], words: str) -> None:
    with pytest.raises(BadConfig, match=words):
        load_recipe("tiny", overrides)


@pytest.mark.parametrize("text", ["{question} {gold}", "a: b: c"])
def test_a_text_that_reads_as_yaml_is_told_how_to_be_quoted(text: str, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("run: {}")
    with pytest.raises(BadConfig, match=r"--set 'prompt\.warmup="):
        load_config(recipe, [f"prompt.warmup={text}"])
