"""What recorders look at: numbered layers of a model, and the batch that they look at it with."""

from torch import Tensor, nn

from losslab.experiments.building import is_weight
from losslab.experiments.states import Job
from losslab.experiments.training import Parts, batches


def numbered(names: list[str]) -> list[str]:
    """Names of layers with their place in front, so that they sort from the input to the output.

    >>> numbered(["0", "branch.1"])
    ['01_0', '02_branch.1']
    """
    digits = max(2, len(str(len(names))))
    return [f"{place:0{digits}d}_{name}" for place, name in enumerate(names, 1)]


def weights_of(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weights that train, by numbered layer: of two dimensions or more, neither bias nor norm.

    >>> list(weights_of(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))))
    ['01_0', '02_2']
    """
    found = {
        name.removesuffix(".weight"): parameter
        for name, parameter in model.named_parameters()
        if is_weight(parameter) and parameter.requires_grad
    }
    return dict(zip(numbered(list(found)), found.values(), strict=True))


def first_batch(parts: Parts, job: Job) -> Tensor:
    """The training examples of the first epoch's first batch: the same whenever it is asked."""
    batch = batches(len(parts.data.train), parts.training["batch_size"], job, 0)[0]
    return batch.to(job.device)
