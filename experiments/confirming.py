"""Confirmation: the selected configurations and the untuned defaults, judged on the test split."""

from collections.abc import Mapping
from typing import Any

from losslab.experiments.arms import Arm
from losslab.experiments.context import Context, Training
from losslab.experiments.folder import read_json
from losslab.experiments.searching import Replicate
from losslab.experiments.waves import train_all


def confirm(context: Context, selected: Mapping[Replicate, Mapping[str, Any]]) -> None:
    """Train every arm on the same fresh run seeds and judge it on test, seed by seed.

    `selected` maps an arm and a repeat of its search to what selection chose there. Plain
    cross-entropy is also judged with the class prior taken out of its logits: cross-entropy with a
    tuned threshold or with that correction is the standing baseline of every study.
    """
    study = context.study
    variants = ["selected", "defaults"] if study.confirm.defaults else ["selected"]
    trainings = [
        _training(context, arm, variant, seed, selected[arm.name, repeat])
        for repeat in range(study.search.repeats)
        for seed in range(study.confirm.seeds)
        for arm in study.arms.values()
        for variant in variants
    ]
    for training in trainings:
        _set_superseded_aside(context, training)
    judged = {
        training.key: {
            "outputs": training.file.with_suffix(""),
            "decision": study.metrics.decision,
            "prior_corrected": training.arm.name in study.plain_arms,
        }
        for training in trainings
    }
    train_all(context, trainings, judged)
    for arm in study.arms.values():
        # Asked for every time, since a kill may have come before the run was discarded.
        for old in context.folder.confirmation(arm.slug).rglob("*.json.superseded-*"):
            if (key := read_json(old)["key"]) not in judged:
                context.tracker.discard(key)


def _training(
    context: Context, arm: Arm, variant: str, seed: int, chosen: Mapping[str, Any]
) -> Training:
    place = context.folder.confirmation(arm.slug, chosen["repeat"])
    place.mkdir(parents=True, exist_ok=True)
    tuned = variant == "selected"
    return Training(
        arm=arm,
        phase="confirm",
        params=chosen["params"] if tuned else arm.defaults,
        seed_index=seed,
        file=place / f"{variant}-{seed:04d}.json",
        trial=chosen["trial"] if tuned else None,
        variant=variant,
        repeat=chosen["repeat"],
    )


def _set_superseded_aside(context: Context, training: Training) -> None:
    """Keep a run whose configuration is no longer the selected one, under another name."""
    record = read_json(training.file)
    if record is None or record["params"] == dict(training.params):
        return
    for suffix in (".npz", ".pt", ".json"):  # the record last: killed before, this is done again
        old = training.file.with_suffix(suffix)
        if old.exists():
            old.rename(old.with_name(f"{old.name}.superseded-of-trial-{record['trial']}"))
    context.observer.note(f"{record['key']}: replaced, since further trials found a better one")
