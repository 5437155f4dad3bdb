"""Combinations of settings that cannot work, alone, on this machine, or with this data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pipeline.config.schema import Config
from pipeline.config.selecting import SCORED
from pipeline.errors import BadConfig
from pipeline.prompts import check_templates


def check(config: Config) -> None:
    """Refuses combinations that cannot work, whatever the machine and the data."""
    check_templates(config.prompt.templates)
    problems = [
        *_ranking_problems(config),
        *_sampling_problems(config),
        *_unlabelled_problems(config),
        *_placement_problems(config),
        *_learning_problems(config),
        *_sft_problems(config),
        *_exploration_problems(config),
        *_data_problems(config),
    ]
    if problems:
        raise BadConfig("\n".join(problems))


def _ranking_problems(config: Config) -> Iterator[str]:
    """What selection ranks by, and what gives that."""
    select = config.select
    if select.rule == "threshold" and select.by != "prm":
        yield (
            f"select.rule = threshold is a probability, and select.by = {select.by} gives none: "
            "set select.rule=top_k, or select.by=prm"
        )
    if select.by == "checker" and select.rule in SCORED and config.data.path != "digits":
        yield (
            "select.by = checker ranks by the process checker of the built-in task, and data.path "
            f"= {config.data.path} has none: set data.path=digits, or rank by something else "
            "(select.by=logprob)"
        )
    if select.reward == "binary" and select.rule in SCORED and select.by == "prm":
        yield (
            f"select.rule = {select.rule} ranks by a process reward: set select.reward=prm, or "
            "rank by what costs nothing: select.by=logprob"
        )
    if select.reward == "prm" and config.prm.shuffle_labels and not config.prm.use_anyway:
        yield (
            "prm.shuffle_labels = true trains a PRM that its gate would refuse, and "
            "select.otherwise would rank in its place: set prm.use_anyway=true"
        )
    if select.reward == "prm" and config.prm.path is None and config.prm.kind == "tag":
        yield "prm.kind = tag is for a PRM from elsewhere: give its folder (prm.path)"
    if select.reward == "prm" and config.prm.path is not None and config.prm.log_likelihood:
        yield (
            "prm.log_likelihood says how a PRM is built, and prm.path takes a ready one, whose own "
            "config says it: set prm.log_likelihood=false, or leave prm.path out"
        )


def _sampling_problems(config: Config) -> Iterator[str]:
    generate, select, warmup = config.generate, config.select, config.warmup
    if select.rule in ("top_k", "bottom_k", "random_k") and select.k > generate.samples:
        yield (
            f"select.k = {select.k} keeps more responses than generate.samples = "
            f"{generate.samples} gives"
        )
    if warmup.keep is not None and warmup.keep > warmup.samples:
        yield f"warmup.keep = {warmup.keep} is more than warmup.samples = {warmup.samples}"
    if generate.max_new_tokens >= generate.max_model_len:
        yield (
            f"generate.max_new_tokens = {generate.max_new_tokens} leaves no room for a prompt in "
            f"generate.max_model_len = {generate.max_model_len}"
        )
    if generate.lookahead < generate.engines:
        yield (
            f"generate.lookahead = {generate.lookahead} keeps some of generate.engines = "
            f"{generate.engines} without work"
        )


def _unlabelled_problems(config: Config) -> Iterator[str]:
    unlabelled = config.unlabelled
    if unlabelled.use == "pseudo" and unlabelled.vote == "prm" and config.select.reward != "prm":
        yield (
            "unlabelled.vote = prm counts votes by a process reward: set select.reward=prm, or "
            "count what costs nothing: unlabelled.vote=logprob, or majority"
        )
    if unlabelled.use != "none" and unlabelled.mix_in * config.evolve.iterations > (
        config.evolve.iterations - 1
    ):
        yield (
            f"unlabelled.mix_in = {unlabelled.mix_in:g} of evolve.iterations = "
            f"{config.evolve.iterations} leaves no iteration that draws unlabelled queries"
        )


def _sft_problems(config: Config) -> Iterator[str]:
    """What a method that trains on gold answers cannot go with."""
    if config.evolve.method != "sft":
        return
    if config.unlabelled.use != "none":
        yield (
            "evolve.method = sft trains on gold answers, which unlabelled queries do not have: set "
            "unlabelled.use=none, or another method"
        )
    if config.explore.every:
        yield (
            "evolve.method = sft samples no responses, so no temperature is to be searched for: "
            "set explore.every=0"
        )
    if config.select.reward == "prm":
        yield (
            "evolve.method = sft samples no responses, so a process reward model would be built "
            "for nothing: set select.reward=binary and a rule that does not rank by one "
            "(select.rule=all_correct)"
        )


def _placement_problems(config: Config) -> Iterator[str]:
    cluster = config.cluster
    for key, least, most_key, most in (
        ("cluster.min_engines", cluster.min_engines, "generate.engines", config.generate.engines),
        ("cluster.min_scorers", cluster.min_scorers, "prm.scorers", config.prm.scorers),
    ):
        if least is not None and least > most:
            yield f"{key} = {least} is more than {most_key} = {most}"
    if cluster.gpus_per_rank % 1 and (config.learn.ranks > 1 or cluster.gpus_per_rank > 1):
        yield (
            f"cluster.gpus_per_rank = {cluster.gpus_per_rank:g} with learn.ranks = "
            f"{config.learn.ranks}: two ranks cannot share a GPU; give whole ones"
        )
    share, taken = cluster.gpus_per_engine, config.generate.gpu_memory_utilization
    if share % 1 and (share > 1 or config.generate.tensor_parallel_size > 1):
        yield f"cluster.gpus_per_engine = {share:g}: give a share of one GPU, or whole ones"
    elif share % 1 and taken > share:
        yield (
            f"cluster.gpus_per_engine = {share:g} lets engines share a GPU, of which each takes "
            f"generate.gpu_memory_utilization = {taken:g}: lower that to {share:g} or less"
        )


def _learning_problems(config: Config) -> Iterator[str]:
    learn = config.learn
    if config.warmup.checkpoint is not None and config.evolve.control:
        yield (
            "evolve.control trains on the chains of this run's own warm-up, which "
            "warmup.checkpoint skips: set evolve.control=false"
        )
    if config.run.rules == 1 and learn.schedule != "constant" and learn.schedule_steps is None:
        yield f"learn.schedule = {learn.schedule} needs learn.schedule_steps, by rules 1"
    if config.run.rules > 1 and learn.schedule_steps is not None:
        yield (
            f"learn.schedule_steps = {learn.schedule_steps} ends the schedule at a step, and how "
            "many steps a run takes depends on what it keeps: leave it out, the schedule spans the "
            "run (learn.schedule_share)"
        )
    if learn.schedule != "constant" and learn.schedule_share < 1.0:
        yield (
            f"learn.schedule_share = {learn.schedule_share:g} lets the learning rate be 0 for the "
            f"last {1 - learn.schedule_share:.0%} of the run, which would change no weight: give 1 "
            "or more"
        )
    if learn.schedule_steps is not None and learn.schedule_rise > learn.schedule_steps:
        yield "learn.schedule_rise is more than learn.schedule_steps"
    evolve = config.evolve
    if evolve.method in ("iterative_rft", "rest_em") and evolve.interval != 1.0:
        yield (
            f"evolve.method = {evolve.method} draws the whole pool in each iteration, and "
            f"evolve.interval = {evolve.interval:g} is a part of it: set evolve.interval=1"
        )
    if evolve.method != "continuous" and config.run.rules == 1:
        yield f"evolve.method = {evolve.method} needs run.rules = 2"
    if evolve.stop_saturated and config.evaluate.samples == 0:
        yield (
            "evolve.stop_saturated compares Pass@K with greedy, and evaluate.samples = 0 samples "
            "nothing: set evaluate.samples"
        )
    if learn.ranks > learn.batch_size:
        yield f"learn.ranks = {learn.ranks} is more than learn.batch_size = {learn.batch_size}"
    if learn.window < learn.batch_size:
        yield f"learn.window = {learn.window} is less than learn.batch_size = {learn.batch_size}"


def _exploration_problems(config: Config) -> Iterator[str]:
    explore, select = config.explore, config.select
    for key, grid in (("explore.grid", explore.grid), ("dynamics.grid", config.dynamics.grid)):
        shown = [f"{temperature:g}" for temperature in grid]
        twice = sorted({one for one in shown if shown.count(one) > 1})
        if twice:
            yield f"{key} holds {', '.join(twice)} more than once"
    if not explore.every:
        return
    if len(explore.grid) < 2:
        yield (
            f"explore.grid = {list(explore.grid)} is a grid of one temperature, which there is "
            "nothing to compare with: give two or more, or set generate.temperature and "
            "explore.every=0"
        )
    if explore.by == "reward_pass_2" and explore.samples < 3:
        yield (
            f"explore.samples = {explore.samples}, and the best two of so few are all of them, "
            "however they are ranked: sample 3 or more, or set explore.by=pass_at_k"
        )
    ranks = select.reward == "prm" or (select.rule in SCORED and select.by in ("logprob", "length"))
    if explore.by == "reward_pass_2" and not ranks:
        yield (
            "explore.by = reward_pass_2 ranks responses by a reward, and this recipe has none: set "
            "select.reward=prm, rank by what costs nothing (select.rule=top_k select.by=logprob), "
            "or set explore.by=pass_at_k"
        )


def _data_problems(config: Config) -> Iterator[str]:
    data = config.data
    splits = (data.train, data.validation, *data.test)
    twice = sorted({name for name in splits if splits.count(name) > 1})
    if twice:
        yield (
            f"data.train, data.validation and data.test are disjoint: {', '.join(twice)} is "
            "named twice"
        )


def check_machine(config: Config, cpus: float, gpus: float) -> None:
    """Refuses what this machine, on a Ray of its own, can never place.

    Roles take turns at CPUs, so each alone must fit; GPUs are held by all of them at once, since
    engines, scorers and ranks stay alive. Ranks are also refused when they outnumber the CPUs,
    whatever share of one each asks for: they wait for each other.
    """
    cluster, problems = config.cluster, []
    ranks, engines = config.learn.ranks, config.generate.engines
    if ranks > cpus:
        problems.append(f"learn.ranks = {ranks}, but there are {cpus:g} CPUs")
    per_engine = cluster.gpus_per_engine * config.generate.tensor_parallel_size
    scorers = config.prm.scorers if config.select.reward == "prm" else 0
    engine_cpus = cluster.cpus_per_engine
    asked = [
        ("learn.ranks x cluster.cpus_per_rank", ranks * cluster.cpus_per_rank, cpus, "CPUs"),
        ("generate.engines x cluster.cpus_per_engine", engines * engine_cpus, cpus, "CPUs"),
        ("prm.scorers x cluster.cpus_per_engine", scorers * engine_cpus, cpus, "CPUs"),
        (
            f"generate.engines ({engines}) and prm.scorers ({scorers}) x GPUs of an engine, and "
            f"learn.ranks ({ranks}) x cluster.gpus_per_rank",
            (engines + scorers) * per_engine + ranks * cluster.gpus_per_rank,
            gpus,
            "GPUs",
        ),
    ]
    problems += [
        f"{keys} = {need:g}, but there are {there:g} {unit}"
        for keys, need, there, unit in asked
        if need > there
    ]
    names = {key: getattr(cluster, key) for key in ("engine_resource", "rank_resource")}
    problems += [
        f"cluster.{key} = {name}: a private Ray (cluster.address=null) has no custom resources"
        for key, name in names.items()
        if name is not None
    ]
    if problems:
        raise BadConfig("\n".join(problems))


def check_data(config: Config, sizes: Mapping[str, int]) -> list[str]:
    """Refuses data without the splits that a run cannot do without; `sizes` is the number of
    labelled queries of each split.

    Counts are limits: one that is more than the data has means all there is. A test split that the
    data lacks is left out.

    Returns:
        What is left out or less than asked for, one line each.

    Raises:
        BadConfig: there is no split to train on, or none to choose policies by.
    """
    data = config.data
    there = ", ".join(f"{name} ({count})" for name, count in sorted(sizes.items())) or "none"
    needed = (
        ("data.train", data.train, "it is what is trained on"),
        ("data.validation", data.validation, "questions of other images, which choose the policy"),
    )
    problems = [
        f"{key} = {name}: the data has no such split; it has {there}. Name one of them, or give "
        f"the data one: {use}"
        for key, name, use in needed
        if not sizes.get(name)
    ]
    if problems:
        raise BadConfig("\n".join(problems))
    notes = [
        f"data.test: the data has no split {name!r}, which is left out; it has {there}"
        for name in data.test
        if not sizes.get(name)
    ]
    unreached = ", ".join(_unreached(config, sizes))
    return [*notes, f"limits above what the data has: {unreached}"] if unreached else notes


def _unreached(config: Config, sizes: Mapping[str, int]) -> Iterator[str]:
    """The counts that are more than the data has, with what there is and is used."""
    data, pool = config.data, sizes[config.data.train]
    limits = [
        ("data.train_queries", data.train_queries, pool),
        ("data.validation_queries", data.validation_queries, sizes[data.validation]),
        *((f"data.test_queries ({one})", data.test_queries, sizes.get(one)) for one in data.test),
    ]
    pool = min(pool, data.train_queries or pool)
    limits.append(("warmup.queries", config.warmup.queries, pool))
    if config.select.reward == "prm" and config.prm.path is None:
        limits.append(("prm.queries", config.prm.queries, pool))
    validation = min(sizes[data.validation], data.validation_queries or sizes[data.validation])
    for name, part in (("explore", config.explore), ("dynamics", config.dynamics)):
        if part.every:
            limits.append((f"{name}.queries", part.queries, validation))
    for key, limit, count in limits:
        if limit is not None and count and count < limit:
            yield f"{key} = {limit}, there are {count}"
