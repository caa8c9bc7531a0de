"""The sections of a study file, typed; what each key means stands in its description."""

import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class Section(BaseModel):
    """A section that knows all its keys."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, validate_default=True)


class Training(Section):
    """How one configuration is trained. Any number may be a range instead (see `spaces`)."""

    epochs: int = Field(30, ge=1, description="passes over the training split")
    batch_size: int = Field(64, ge=1, description="examples a step (images, in dense tasks)")
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    learning_rate: float = Field(1e-3, gt=0, description="peak learning rate; searched by default")
    weight_decay: float = Field(
        1e-4, ge=0, description="decoupled (AdamW) or L2 (Adam, SGD); searched by default"
    )
    l1: float = Field(
        0, ge=0, description="factor of the sum of |w| over weights (not biases, not norms)"
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="SGD only")
    generator_learning_rate: float | None = Field(
        None, gt=0, description="peak rate of the generator, in adversarial tasks; null: the same"
    )
    schedule: Literal["cosine", "step", "constant"] = Field(
        "cosine", description="step divides by 10 at 2/3 and 8/9 of the training"
    )
    warmup_epochs: float = Field(0, ge=0, description="linear warm-up from 0, in epochs")
    clip_norm: float | None = Field(None, gt=0, description="largest gradient norm; null for none")
    precision: Literal["float32", "float64"] = Field(
        "float32", description="of features, weights and optimiser"
    )
    time_limit: float | None = Field(
        None, gt=0, description="seconds that one training may take; null for no limit"
    )
    record: list[str] = Field(
        default_factory=list,
        description="what to record every epoch beside the metrics, such as gradients",
    )
    judge: Literal["last", "best_validation"] = Field(
        "last", description="which epoch's weights give a run its value, everywhere in the study"
    )


class Mining(Section):
    """Online hard example mining as in the focal loss paper's Table 1d."""

    batch_size: int = Field(128, ge=1, description="anchors that a batch of images keeps")
    nms_threshold: float = Field(
        0.7, ge=0, le=1, description="IoU above which an anchor of lower loss is dropped first"
    )
    negatives_per_positive: float | None = Field(
        None, gt=0, description="3 for OHEM 1:3; null: simply the highest losses"
    )


class Detector(Section):
    """How a detector trains and detects; in detection studies only."""

    normalizer: Literal["positives", "moving_average", "elements"] = Field(
        "positives",
        description="what the losses are divided by: positive anchors of the batch, their moving "
        "average, or (class loss) all elements, as GHM asks for",
    )
    box_loss: dict[str, Any] = Field(
        default_factory=lambda: {"name": "smooth_l1"}, description="a loss of boxes or regression"
    )
    box_weight: float = Field(1.0, ge=0, description="factor of the box loss")
    balance: dict[str, Any] | None = Field(
        None, description="how class and box loss are weighed: fixed, uncertainty or gradnorm"
    )
    mining: Mining | None = Field(None, description="OHEM in place of a loss over all anchors")
    positive: float = Field(0.5, gt=0, le=1, description="IoU from which an anchor is positive")
    negative: float = Field(0.4, gt=0, le=1, description="IoU below which it is background")
    best_from: float | None = Field(
        None, ge=0, le=1, description="a box's best anchors are positive too from this IoU on"
    )
    flip: float = Field(0.5, ge=0, le=1, description="share of training images that is mirrored")
    jitter: tuple[float, float] | None = Field(
        None, description="range of the factor that training images are scaled by; null for none"
    )
    score_threshold: float = Field(0.05, gt=0, lt=1, description="least score of a detection")
    nms_threshold: float = Field(
        0.5, ge=0, le=1, description="IoU above which a better detection suppresses another"
    )
    top_k: int = Field(1000, ge=1, description="candidates of each level, before suppression")
    detections: int = Field(100, ge=1, description="most detections in an image")

    @model_validator(mode="after")
    def _sound(self) -> "Detector":
        if self.negative > self.positive:
            raise ValueError(
                f"negative: must be at most positive ({self.positive}), got {self.negative}"
            )
        if self.jitter is not None and not 0 < self.jitter[0] <= self.jitter[1]:
            raise ValueError(f"jitter: needs 0 < low <= high, got {list(self.jitter)}")
        return self


#: What cannot be searched: it decides what a training is, not how good it is.
FIXED = ("epochs", "judge", "precision", "record", "time_limit")


class Select(Section):
    """How an arm's configuration is selected after its search."""

    best: int = Field(2, ge=1, description="how many of the best trials are retrained")
    seeds: int = Field(1, ge=0, description="on how many further search seeds; 0: no retraining")


class Search(Section):
    """What each arm may spend on tuning; the same for every arm."""

    trials: int = Field(
        16, ge=1, description="trainings in all per arm, the re-trainings of selection included"
    )
    generation: int = Field(4, ge=1, description="trials asked for together and told together")
    sampler: Literal["tpe", "random", "qmc", "grid", "cma-es", "gp"] = "tpe"
    grid_points: int = Field(5, ge=2, description="points a range gets under sampler: grid")
    pruner: Literal["median", "halving", "none"] = "median"
    repeats: int = Field(
        1,
        ge=1,
        le=999,
        description="independent searches of every arm, each with selection and confirmation of "
        "its own; from 2 on these are the replicates of every interval and test",
    )
    rungs: list[int] | None = Field(
        None, description="epochs at which trials may be pruned; null: 1/4 and 1/2 of the epochs"
    )
    select: Select = Field(default_factory=Select)

    @property
    def search_trials(self) -> int:
        """Trials of the search proper: the budget less the re-trainings of selection."""
        return self.trials - self.select.best * self.select.seeds

    @model_validator(mode="after")
    def _budget_covers_selection(self) -> "Search":
        if self.search_trials < self.select.best:
            needed = self.select.best * (self.select.seeds + 1)
            raise ValueError(
                f"trials: a budget of {self.trials} cannot pay for retraining the best "
                f"{self.select.best} on {self.select.seeds} seeds; give at least {needed} trials "
                f"or lower select.best or select.seeds"
            )
        return self


class Confirm(Section):
    """How the selected configurations are judged on the test split."""

    seeds: int = Field(10, ge=1, description="fresh run seeds, the same for every arm")
    defaults: bool = Field(True, description="also run every arm untuned, at its defaults")


class Metrics(Section):
    """What is measured, and which metric decides."""

    primary: str = Field(
        "average_precision", description="the objective, on validation; ap in object detection"
    )
    direction: Literal["maximize", "minimize"] | None = Field(
        None, description="needed for a metric given by path; built-in metrics know theirs"
    )
    decision: str = Field(
        "balanced_accuracy", description="what the decision threshold is tuned for, on validation"
    )
    extra: list[str] = Field(
        default_factory=list, description="further metrics: paths called as f(targets, scores)"
    )


def megabytes_of(text: str) -> float:
    """Megabytes (1e6 bytes) of a text such as "500 MB", "2GB" or "1.5 GiB".

    >>> megabytes_of("500 MB"), megabytes_of("2GB")
    (500.0, 2000.0)
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*", text, flags=re.IGNORECASE)
    if match is None or float(match[1]) == 0 or (match[3] and not match[2]):
        raise ValueError("give an amount of memory such as 500 MB or 4 GB")
    power = " kmgt".index(match[2].lower() or " ")
    return float(match[1]) * (1024 if match[3] else 1000) ** power / 1e6


class Levels(Section):
    """One setting that every arm is tried at several values of, each a comparison of its own."""

    path: str = Field(
        min_length=1,
        description="what differs: a path such as dataset.imbalance_ratio, a section such as "
        "dataset, or search.trials",
    )
    values: list[Any] | dict[str, Any] = Field(
        min_length=1, description="the value at each level; a mapping also names the levels"
    )
    label: str | None = Field(None, description="what the setting is called in figures and tables")


class Contrast(Section):
    """A claim that is put down before the study runs: one arm is better than another."""

    better: str = Field(description="the arm that the claim says is better")
    than: str = Field(description="the arm that it is compared with")
    claim: str = Field("", description="the claim in words, with its source")


class StudyFile(Section):
    """A study file: one question, its dataset, model, arms, budget and seeds."""

    model_config = ConfigDict(coerce_numbers_to_str=True)

    study: str | None = Field(None, min_length=1, max_length=100, description="the study's name")
    question: str = Field("", description="what the study answers, in a sentence")
    seed: int = Field(0, ge=0, lt=2**63, description="the study seed")
    dataset: dict[str, Any] = Field(
        default_factory=dict, description="name and options; may be left out if every arm has one"
    )
    model: dict[str, Any] = Field(
        default_factory=lambda: {"name": "mlp"}, description="name, prior_init and options"
    )
    training: dict[str, Any] = Field(default_factory=dict)
    loss: dict[str, Any] = Field(
        default_factory=dict,
        description="name, link and hyper-parameters; left out: ce (adversarial: non_saturating)",
    )
    detector: dict[str, Any] = Field(
        default_factory=dict, description="in detection: normaliser, box loss, mining, assignment"
    )
    arms: dict[str, dict[str, Any]] = Field(
        min_length=1, description="what is compared: each arm overrides any part of the file"
    )
    levels: Levels | None = Field(
        None, description="a setting that every arm is tried at several values of"
    )
    baseline: str | None = Field(
        None, description="the arm that others are compared with; null: plain cross-entropy"
    )
    contrasts: list[Contrast] = Field(
        default_factory=list, description="claims put down beforehand, each answered in a word"
    )
    search: Search = Field(default_factory=Search)
    confirm: Confirm = Field(default_factory=Confirm)
    metrics: Metrics = Field(default_factory=Metrics)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    engine: Literal["auto", "plain", "stacked"] = Field(
        "auto", description="train one by one, or many as one batched program; auto: by shapes"
    )
    memory: str = Field(
        "1 GB", description="what the tensors of one stack may take, such as 500 MB or 4 GB"
    )

    @field_validator("memory")
    @classmethod
    def _memory_readable(cls, memory: str) -> str:
        megabytes_of(memory)
        return memory

    @field_validator("arms", mode="before")
    @classmethod
    def _named(cls, arms: Any) -> Any:
        if isinstance(arms, dict) and arms:
            return arms
        if isinstance(arms, list) and any(arms.count(arm) > 1 for arm in arms):
            raise ValueError("the same loss stands twice; give arms names, as in {a: ce, b: ce}")
        raise ValueError("give a list of losses, such as [ce, focal], or a mapping of named arms")


ARM_SECTIONS = ("dataset", "model", "training", "detector", "loss")


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a study file, short forms and search spaces included."""
    from losslab.experiments.spaces import Choices, Range

    schema = StudyFile.model_json_schema()
    training = Training.model_json_schema()
    definitions = schema.setdefault("$defs", {})
    definitions["Range"] = Range.model_json_schema()
    definitions["Choices"] = Choices.model_json_schema()
    spaces = [{"$ref": "#/$defs/Range"}, {"$ref": "#/$defs/Choices"}]
    for name, content in training["properties"].items():
        if name not in FIXED:
            about = content.get("description", "")
            training["properties"][name] = {"description": about, "anyOf": [content, *spaces]}
    definitions["Training"] = training
    named = {
        "anyOf": [
            {"type": "string"},
            {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
        ]
    }
    properties = schema["properties"]
    properties["training"] = {"$ref": "#/$defs/Training"}
    definitions["Detector"] = Detector.model_json_schema()
    properties["detector"] = {"$ref": "#/$defs/Detector"}
    for section in ("dataset", "model", "loss"):
        properties[section] = {"description": properties[section].get("description", ""), **named}
    arm = {"anyOf": [{"type": "string"}, {"type": "null"}, {"type": "object"}]}
    properties["arms"] = {
        "description": properties["arms"].get("description", ""),
        "anyOf": [
            {"type": "array", "items": {"type": "string"}, "minItems": 1},
            {"type": "object", "additionalProperties": arm, "minProperties": 1},
        ],
    }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
