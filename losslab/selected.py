"""The selected configurations of a study: as a study file that loads, and as Python that runs."""

import math
import re
from collections.abc import Mapping
from typing import Any

import yaml

from losslab.errors import BadInput
from losslab.experiments.folder import StudyFolder, read_json
from losslab.experiments.schema import ARM_SECTIONS
from losslab.experiments.spaces import set_path
from losslab.inspecting import study_folder

# What the section `detector` says of the loss.
OF_THE_LOSS = ("normalizer", "box_loss", "box_weight", "mining", "balance")


def best(study: str, home: str | None, arm: str | None) -> str:
    """What was selected, as YAML and as Python; of one arm, or of all that have got so far."""
    folder = study_folder(study, home)
    entry = read_json(folder.study_file)
    arms = entry["arms"]
    if arm is not None and arm not in arms:
        raise BadInput(f"--arm: no arm is called {arm!r} (arms: {', '.join(arms)})")
    chosen = {
        name: _best_repeat(folder, about["slug"], entry)
        for name, about in arms.items()
        if arm in (None, name)
    }
    ready = {name: content for name, content in chosen.items() if content is not None}
    if not ready:
        raise BadInput(f"study {entry['study']!r} has selected nothing yet; run it to its end")
    configs = {
        name: _configured(arms[name]["config"], content["params"])
        for name, content in ready.items()
    }
    lines = [f"# Selected by {entry['study']}, on validation (mean over search seeds)."]
    for name, content in ready.items():
        value = "" if content["value"] is None else f"{entry['primary']} {content['value']:.4f}"
        repeat = f"repeat {content['repeat']};" if entry.get("repeats", 1) > 1 else ""
        lines.append(f"# {name}: {value} {repeat} {'; '.join(content['flags'])}".rstrip(" :;"))
    file = _study_file(entry, configs)
    lines += ["# As YAML, a study of its own:", _yaml(file), "# As Python:", _python(configs)]
    return "\n".join(lines)


def _best_repeat(folder: StudyFolder, slug: str, entry: Mapping[str, Any]) -> dict[str, Any] | None:
    """What selection chose, on validation, out of all repeats of an arm's search."""
    found = [
        read_json(folder.arm(slug, r) / "selected.json") for r in range(entry.get("repeats", 1))
    ]
    ready = [content for content in found if content is not None]
    sign = -1 if entry["direction"] == "maximize" else 1

    def rank(content: Mapping[str, Any]) -> float:
        return math.inf if content["value"] is None else sign * content["value"]

    return min(ready, key=rank, default=None)


def _study_file(entry: Mapping[str, Any], configs: Mapping[str, Any]) -> dict[str, Any]:
    """A study file in which everything that was searched is fixed; arms hold what differs."""
    names = list(configs)
    common = configs[entry["standing"] if entry["standing"] in configs else names[0]]
    arms = {}
    for name, config in configs.items():
        arms[name] = {"loss": _plain(config["loss"])}
        for section in ARM_SECTIONS[:-1]:
            own, shared = config.get(section, {}), common.get(section, {})
            other = own.get("name") != shared.get("name")
            different = {
                key: value for key, value in own.items() if other or shared.get(key) != value
            }
            if different:
                arms[name][section] = _plain(different) if other else different
    file = {
        "study": f"{entry['study']}_selected",
        "seed": entry["resolved"]["seed"],
        **{section: _plain(common[section]) for section in ARM_SECTIONS[:-1] if section in common},
        "arms": arms,
        "search": {"trials": 1, "select": {"best": 1, "seeds": 0}},
        "confirm": {**entry["resolved"]["confirm"], "defaults": False},
        "metrics": entry["resolved"]["metrics"],
    }
    if entry["baseline"] in configs:
        file["baseline"] = entry["baseline"]
    return file


def _plain(section: Mapping[str, Any]) -> dict[str, Any]:
    """A section without what is a default everywhere: nothing, and the task's reduction."""
    return {
        key: value
        for key, value in section.items()
        if value is not None and not (key == "reduction" and value == "default")
    }


def _yaml(content: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True)


def _configured(config: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
    result = {section: dict(values) for section, values in config.items()}
    for path, value in params.items():
        set_path(result, path, value)
    return result


def _python(configs: Mapping[str, Any]) -> str:
    """One function an arm, which makes its loss and optimiser for use outside losslab's runner."""
    counts = "the training examples of each class"
    source = "losslab.losses import LOSSES"
    if any("detector" in config for config in configs.values()):
        counts = "positive anchors of each class, as class_counts_of (there) gives them"
        source = "losslab.experiments.detection.loss import detection_loss"
    if any(config["loss"].get("link") == "identity" for config in configs.values()):
        counts = "of no use to these losses"
        source = "losslab.losses import ADVERSARIAL"
    parts = [
        f"import torch\nfrom {source}\n\n"
        f"# class_counts: {counts}; model: your network. Modules of\n"
        "# your own (my_loss.py) must be importable from where this runs.\n"
    ]
    parts += [_function(name, config) for name, config in configs.items()]
    return "\n".join(parts)


def _function(name: str, config: Mapping[str, Any]) -> str:
    training, detector = config["training"], config.get("detector", {})
    rate, decay = training["learning_rate"], training["weight_decay"]
    momentum = f", momentum={training['momentum']}" if training["optimizer"] == "sgd" else ""
    optimizer = {"sgd": "SGD", "adam": "Adam"}.get(training["optimizer"], "AdamW")
    about = {**config["model"], **training, **detector}
    rest = ", ".join(
        f"{key} {value}"
        for key, value in about.items()
        if value is not None
        and key not in ("learning_rate", "weight_decay", "momentum", "optimizer", *OF_THE_LOSS)
    )
    parameters = "model.parameters()"
    if detector.get("balance"):  # it may learn, and what it learns does not decay
        parameters = (
            '[{"params": model.parameters()}, {"params": loss.parameters(), "weight_decay": 0}]'
        )
    if config["loss"].get("link") == "identity":
        parameters = (  # the discriminator's rate is the last argument, the generator's its own
            f'[{{"params": model.generator.parameters(), '
            f'"lr": {training.get("generator_learning_rate") or rate!r}}}, '
            f'{{"params": model.discriminator.parameters()}}]'
        )
        momentum = momentum or ", betas=(0.5, 0.999)"
    identifier = "make_" + re.sub(r"\W", "_", name, flags=re.ASCII)
    return (
        f"def {identifier}(model, class_counts):\n"
        f"    # trained with: {rest}\n"
        f"    loss = {_loss(config)}\n"
        f"    optimizer = torch.optim.{optimizer}(\n"
        f"        {parameters}, lr={rate!r}{momentum}, weight_decay={decay!r}\n"
        f"    )\n"
        f"    return loss, optimizer\n"
    )


def _loss(config: Mapping[str, Any]) -> str:
    """The expression that makes a configuration's loss."""
    loss = _plain(config["loss"])
    if "detector" in config:
        settings = {key: config["detector"].get(key) for key in OF_THE_LOSS}
        given = "".join(
            f"        {line},\n" for line in (repr(loss), repr(settings), "class_counts")
        )
        return f"detection_loss(\n{given}    )"
    path, link = loss.pop("name"), loss.pop("link")
    arguments = "".join(f", {key}={value!r}" for key, value in loss.items())
    if link == "identity":
        return f"ADVERSARIAL.create({path!r}{arguments})"
    if ":" not in path and "." not in path:
        arguments = f", link={link!r}, class_counts=class_counts{arguments}"
    return f"LOSSES.create({path!r}{arguments})"
