"""A segmentation network while it trains; it validates on all pixels without keeping them."""

from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np

from losslab.experiments.data import Examples
from losslab.experiments.decisions import Decision, decision_scores, default_decision
from losslab.experiments.elements import ElementParts, prepare_elements
from losslab.experiments.segmentation.evaluation import Evaluated, evaluated, sampled_pixels
from losslab.experiments.segmentation.metrics import segmentation_metrics
from losslab.experiments.states import Job
from losslab.experiments.tasks.segmentation import Segmentation


@dataclass
class SegmentationParts(ElementParts):
    """The live objects of a segmentation network's training."""

    task: Segmentation
    study_seed: int

    @cached_property
    def validation_sample(self) -> list[np.ndarray]:
        """The pixels of the validation images whose logits are looked at."""
        return self.sample_of(self.data.validation)

    def sample_of(self, examples: Examples) -> list[np.ndarray]:
        """The same of any split."""
        return sampled_pixels(examples.targets.cpu().numpy(), examples.ids, self.study_seed)

    def validate(self, job: Job) -> dict[str, float]:
        """The job's metrics on the validation split, decided at 0.5 or argmax."""
        rule = default_decision()
        found = evaluated(
            self.model, self.data.validation, self.task, job.link, self.validation_sample, [rule]
        )
        return self.scores(found, 0, rule, job.metrics, job)

    def scores(
        self,
        found: Evaluated,
        place: int,
        rule: Decision,
        names: tuple[str, ...],
        job: Job,
        temperature: float = 1.0,
    ) -> dict[str, float]:
        """The named metrics under the decision rule at `place` of those that were counted by."""
        values = decision_scores(found.logits, job.link) / temperature
        return segmentation_metrics(
            found.targets,
            rule.probabilities(values),
            rule.decide(values),
            found.confusions[place],
            class_names=self.data.dataset.class_names,
            train_class_counts=self.data.class_counts,
            names=names,
        )


def prepare_segmentation(job: Job) -> SegmentationParts:
    """Data, network and loss of a job, the network at its initial weights."""
    parts = prepare_elements(job)
    own = {field.name: getattr(parts, field.name) for field in fields(parts)}
    return SegmentationParts(**own, study_seed=job.study_seed)
