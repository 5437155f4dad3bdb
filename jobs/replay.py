"""Selection, votes and temperatures of a run again, with other settings and no engine:
`mstar-ray replay RUN`.

Reads the store of a run, finished or not, and changes nothing. Each `--with` is a setting of its
own, a list of section.key=value; all stand side by side with what the run did.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from jobs.runtime.cli import command, say, write_json
from jobs.runtime.stores import find_run
from pipeline.config.load import changed_config
from pipeline.config.resume import diff
from pipeline.errors import BadConfig
from pipeline.reports.exploration.replay import decided, searches_table, stored_searches
from pipeline.reports.replay import OWN, Setting, replay_rows, replay_table, stored_shards
from pipeline.reports.tables import text_table
from pipeline.run.spec import RunSpec
from pipeline.run.state import State
from pipeline.selection.pseudo_labels import Voting
from pipeline.storage.artifacts import inspect_rows

VOTES = ("unlabelled.vote", "unlabelled.least_share")
DECIDED = ("select.", "explore.", "generate.samples", "run.seed", *VOTES)
"""What a replay can decide otherwise on what is stored."""


def replay(
    place: str, settings: Sequence[str], run: str | None = None, out: Path | None = None
) -> None:
    """Print the table of all settings, and write the rows where `out` names a file.

    settings: each "select.k=4" or "select.rule=threshold select.threshold=0.7".

    Raises:
        BadConfig: no such run, nothing to replay yet, or a setting that stored shards cannot
            answer.
    """
    stored = find_run(place, run)
    spec, state = stored.spec, stored.state
    shards, searches = stored_shards(stored), stored_searches(stored)
    if not shards and not searches:
        raise BadConfig(
            f"run {stored.name!r} has closed no iteration yet: there is nothing to replay"
        )
    asked, specs = [Setting.of(OWN, state, spec)], [spec]
    for text in settings:
        specs.append(changed_spec(text, spec))
        asked.append(changed_setting(text, state, spec, specs[-1]))
    if asked[0].rule != spec.rule:
        otherwise = f"select.otherwise = {spec.config.select.otherwise} stands in for it"
        said = "a threshold keeps all" if spec.rule.name == "threshold" else otherwise
        say(f"the run's process reward model did not pass its gate: as in the run, {said}")
    rows = replay_rows(shards, asked, spec.by_hash)
    print(text_table(replay_table(rows)))
    if searches:
        read = partial(inspect_rows, stored.store)
        for row, one in zip(rows, specs, strict=True):
            title = row["setting"]
            row["searches"] = [decided(search, title, state, one, read) for search in searches]
        print("\n" + text_table(searches_table(rows)))
    if out is not None:
        write_json(out, rows)
        say(f"{len(rows)} rows written to {out}")


def changed_spec(text: str, spec: RunSpec) -> RunSpec:
    """The run under the settings of one replay.

    Raises:
        BadConfig: they would have made other responses.
    """
    config = changed_config(spec.config, text.split())
    strange = [one.key for one in diff(spec.config, config) if not one.key.startswith(DECIDED)]
    if strange:
        raise BadConfig(
            f"--with {text!r}: {', '.join(strange)} would have made other responses; a replay "
            f"chooses again among those there are: {', '.join(DECIDED)}"
        )
    return replace(spec, config=config)


def changed_setting(text: str, state: State, spec: RunSpec, changed: RunSpec) -> Setting:
    """What is selected, and voted for, under the settings of one replay.

    What ranked in place of a process reward model that did not pass its gate goes on doing so,
    unless the setting names what is to rank, or a threshold, in whose place there is nothing.
    """
    one, select = Setting.of(text, state, changed), changed.config.select
    named = {setting.partition("=")[0] for setting in text.split()}
    compares = select.rule == "threshold" and select != spec.config.select
    if compares or named & {"select.by", "select.reward"}:
        one = replace(one, rule=changed.rule)
    votes = changed.config.unlabelled
    if votes == spec.config.unlabelled:
        return one
    if votes.use != "pseudo":
        raise BadConfig(f"--with {text!r}: this run made no pseudo-labels to vote on again")
    return replace(one, vote=Voting(votes.vote, votes.least_share))


if __name__ == "__main__":
    command("replay")
