"""Build a run's process reward model, and show its card: `mstar-ray prm --recipe digits`.

This is the run of `mstar-ray run` up to the point where its PRM is judged (warm-up, annotation,
training, gate): the same ledger, so `mstar-ray run` goes on from there, and a run that was
interrupted goes on here. The card is written to <out>/<run>/prm_card.json and lies in the PRM's
folder in the store.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jobs.run import drive_to
from jobs.runtime.cli import command, write_json
from jobs.runtime.prepare import open_run_store, out_folder
from jobs.runtime.stored_outputs import StoredOutputs
from pipeline.config.schema import Config
from pipeline.errors import BadConfig
from pipeline.phases.prm import NAME
from pipeline.reports.tables import decimals
from pipeline.run.state import State


def prm(config: Config, *, take_over: bool = False) -> dict[str, Any] | None:
    """The PRM's card; None for one from elsewhere (prm.path), which is not judged.

    Raises:
        BadConfig: the configuration asks for no PRM.
    """
    if config.select.reward != "prm":
        raise BadConfig("select.reward = binary uses no process reward model: set it to prm")
    state = drive_to(config, lambda state: NAME in state.policies, take_over=take_over)
    if state.prm is None:
        print(f"the process reward model is {config.prm.path}, used as it is")
        return None
    show(state, print)
    path = out_folder(config) / "prm_card.json"
    write_json(path, state.prm)
    StoredOutputs(path.parent, open_run_store(config, print), config.run.name).copy()
    print(path)
    card: dict[str, Any] = state.prm["card"]
    return card


def show(state: State, say: Callable[[str], None]) -> None:
    """Labels, gate and decision in a few lines."""
    assert state.prm is not None
    assert state.labels is not None
    card, labels = state.prm["card"], state.labels
    say(f"labels: {labels['trained']} responses trained on, {labels['held_out']} held out by image")
    for why, count in card.get("unscored", {}).items():
        say(f"of those held out {count} could not be scored: {why}")
    for key, words in (
        ("agreement", "agreement with the labels among correct responses to a question"),
        ("agreement_of_labels", "of one half of the labels' completions with the other, there"),
        ("auc_step_within", "step AUC within a question"),
        ("question_only", "step AUC of a score that knows only the question"),
        ("auc_step", "step AUC across questions"),
        ("auc_within", "AUC within a question, correct against wrong processes"),
        ("auc_answer", "AUC within a question, correct against wrong answers"),
    ):
        say(f"{words}: {_estimate(card.get(key))}")
    say(f"calibration: error {_estimate(card['calibration']['error'])}")
    say(f"first wrong step found: {_estimate(card['first_wrong']['wrong'])}")
    say(f"closed by Top-2, by labels: {_estimate(card['top2']['closed'])}")
    for reason in state.prm["reasons"]:
        say(f"below the bar: {reason}")
    say("used" if state.prm["used"] else "not used (prm.use_anyway=true would use it)")


def _estimate(estimate: dict[str, Any] | None) -> str:
    if estimate is None:
        return "cannot be said from these labels"
    return f"{decimals(estimate['value'], estimate['ci95'], digits=3)} n={estimate['n']}"


if __name__ == "__main__":
    command("prm")
