"""How a loss of any kind is evaluated element by element: which batch it is given, and its scale.

Our own losses say whether they look at whole batches; other people's are found out by trying.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from losslab.analysis import reference_batches as batches
from losslab.analysis.reference_batches import Batch
from losslab.errors import BadInput
from losslab.losses.base import Loss
from losslab.losses.conformance.subject import Subject, seeded
from losslab.losses.sets import SetLoss

_HOOKS = ("observe", "selected", "batch_weights")
_WARM_UP, _DRAWS = 10, 16


@dataclass(frozen=True)
class Probe:
    """A loss, the batch it is evaluated on, and what its value is.

    `whole`: it gives one value for the batch and none per element; `factor` makes of that value's
    gradient that of an element, and `times` is the factor to tell of (1 where it only undoes a
    mean). `fixed`: constructor arguments besides the hyper-parameters. `draws`: evaluations to take
    the mean of. `note`: what else was chosen, for people.
    """

    subject: Subject
    batch: Batch
    whole: bool = False
    factor: float = 1.0
    times: int = 1
    fixed: Mapping[str, Any] = field(default_factory=dict)
    draws: int = 1
    note: str = ""

    def measure(self, values: Mapping[str, float]) -> tuple[np.ndarray, np.ndarray]:
        """Loss and gradient by the margin of every element, (n,) each, with these `values`.

        State is warmed up on the batch, schedules have come to their end, and losses that draw at
        random are averaged over draws.
        """
        with seeded():
            loss = self.subject.make(**self.fixed, **values)
            if isinstance(loss, Loss):
                loss.set_progress(1.0)
            if loss.state_dict() and self.draws == 1:
                with torch.no_grad():
                    for _ in range(_WARM_UP):
                        self._value(loss, self.batch.margins)
            found = [self._once(loss) for _ in range(self.draws)]
        value, gradient = (np.mean(each, axis=0) for each in zip(*found, strict=True))
        return value, gradient

    def _once(self, loss: nn.Module) -> tuple[np.ndarray, np.ndarray]:
        margins = self.batch.margins.detach().clone().requires_grad_()
        value = self._value(loss, margins)
        each = self.per_element(value)
        factor = self.factor if each is None else 1.0
        (gradient,) = torch.autograd.grad(value.sum() * factor, margins)
        if each is None:
            return _integral(self.batch, gradient.numpy()), gradient.numpy()
        return each.detach().double().numpy(), gradient.numpy()

    def _value(self, loss: nn.Module, margins: Tensor) -> Tensor:
        return loss(*arranged(self.subject, self.batch, margins))

    def per_element(self, value: Tensor) -> Tensor | None:
        """The values of the elements in their order, None where the loss is not so given."""
        number = len(self.batch.margins)
        if self.whole or value.ndim == 0:
            return None
        if self.batch.places is not None:
            return value.reshape(-1)[self.batch.places]
        if value.numel() == number:
            return value.reshape(-1)
        if self.batch.link == "softmax" and value.numel() == 4 * number:
            return value.sum(1).reshape(-1)  # libraries that leave the sum over classes undone
        return None


def probe_of(subject: Subject) -> Probe:
    """How to evaluate a loss under the link of `subject`; raises `BadInput` where there is no way.

    >>> from losslab.losses.conformance.subject import subjects
    >>> probe_of(subjects("focal", "sigmoid")[0]).whole
    False
    """
    if not subject.own:
        return _foreign(subject)
    try:
        return _own(subject)
    except BadInput:
        raise
    except Exception as error:  # a loss in the making
        raise BadInput(_refused(subject, error)) from error


def _refused(subject: Subject, error: Exception) -> str:
    return (
        f"{subject.name} cannot be evaluated under {subject.case}: {type(error).__name__}: {error}"
    )


def arranged(subject: Subject, batch: Batch, margins: Tensor) -> tuple[Tensor, Tensor]:
    """Predictions and targets in the layout and precision that a loss takes."""
    x, y = batch.predictions(margins), batch.targets
    if subject.own:
        return x, y
    x, y = x.float(), y if y.dtype == torch.int64 else y.float()
    if "H, W" in subject.layout:
        if batch.link == "softmax":
            return x.t()[None, :, None, :], y[None, None, :]
        return x[None, None, None, :], y[None, None, None, :]
    if batch.link == "sigmoid" and subject.layout == "(N, K)":
        return x[:, None], y[:, None]
    return x, y


def _own(subject: Subject) -> Probe:
    says = subject.says
    whole = issubclass(says, SetLoss) and subject.link != "identity"
    batch = _own_batch(subject, whole)
    number = batch.targets.numel()
    fixed: dict[str, Any] = {"reduction": "mean" if whole else "none"}
    note = _WHOLE.format(f"{number:,}") if whole else ""
    note += _schedule_note(says, subject)
    if batch.scale != 1:
        note += f"The logits are cosines; p_t is that of cross-entropy at scale {batch.scale:g}. "
    if batch.class_counts is not None:
        fixed["class_counts"] = list(batch.class_counts)
        if says.needs_class_counts(subject.link, {}) or "a" in subject.declared:
            note += f"Class counts {', '.join(f'{n:,}' for n in batch.class_counts)}. "
    if says.samples:
        batch = replace(batch, steady=False)
        note += f"Means over {_DRAWS} draws. "
    return Probe(
        subject,
        batch,
        whole,
        float(number) if whole else 1.0,
        number if whole else 1,
        fixed,
        _DRAWS if says.samples else 1,
        note,
    )


_WHOLE = (
    "The value belongs to the batch: shown are its derivative by the margin of one element, times "
    "the {} elements, and the integral of that. "
)
_UNDONE = "It gives one value per batch: its loss by element is the integral of the gradient. "


def _own_batch(subject: Subject, whole: bool) -> Batch:
    """A grid for a loss of independent elements, else the batch of its kind."""
    says = subject.says
    watches = _watches(says)
    if subject.link == "identity":
        return batches.error_batch() if watches else _errors_or_boxes(subject)
    if subject.link == "softmax":
        scale = _cosine_scale(says, subject)
        return batches.class_batch() if watches or whole else batches.class_grid(scale)
    if _looks_at_rows(subject, whole):
        return batches.label_batch() if whole else batches.label_grid()
    return batches.binary_batch() if watches or whole else batches.binary_grid()


def _watches(says: type[Loss]) -> bool:
    return any(getattr(says, hook) is not getattr(Loss, hook) for hook in _HOOKS)


def _schedule_note(says: type[Loss], subject: Subject) -> str:
    values = {name: entry.default for name, entry in subject.declared.items()}
    return "At the end of its schedule. " if says.last_change(values) > 0 else ""


def _cosine_scale(says: type[Loss], subject: Subject) -> float:
    if says.head != "cosine" or "scale" not in subject.declared:
        return 1.0
    return subject.declared["scale"].default


def _errors_or_boxes(subject: Subject) -> Batch:
    batch = batches.error_grid()
    try:
        with seeded(), torch.no_grad():
            subject.make()(*arranged(subject, batch, batch.margins))
    except Exception:  # a loss of boxes refuses numbers, each in its own way
        return batches.boxes()
    return batch


def _looks_at_rows(subject: Subject, whole: bool) -> bool:
    """Whether the value of an element depends on the other labels of its row, or a row has one."""
    counts = list(batches.LABEL_COUNTS)
    x = torch.linspace(-2, 2, 2 * len(counts), dtype=torch.float64).reshape(2, -1)
    y = torch.zeros_like(x)
    y[0, 0] = 1

    def first(targets: Tensor) -> Tensor:
        with seeded(), torch.no_grad():
            return subject.make(reduction="none", class_counts=counts)(x, targets)

    value = first(y)
    if whole or value.shape != x.shape:
        return value.numel() > 1
    other = y.clone()
    other[0, 1:] = 1
    return not _watches(subject.says) and bool(first(other)[0, 0] != value[0, 0])


def _foreign(subject: Subject) -> Probe:
    """A loss of which nothing is known but that it takes batches of this layout."""
    if subject.link == "identity":
        grid, batch = _errors_or_boxes(subject), batches.error_batch()
    elif subject.link == "softmax":
        grid, batch = batches.class_grid(), batches.class_batch()
    else:
        grid, batch = batches.binary_grid(), batches.binary_batch()
    for fixed in ({"reduction": "none"}, {}):
        probe = Probe(subject, grid, fixed=fixed)
        try:
            alone = _independent(probe)
            if not alone:
                probe = replace(probe, batch=batch)
            with seeded(), torch.no_grad():
                value = probe._value(subject.make(**fixed), probe.batch.margins)
        except Exception as error:
            refusal = BadInput(_refused(subject, error))
            continue
        if probe.per_element(value) is not None:
            return probe
        if fixed:
            continue
        number = len(probe.batch.margins)
        factor = float(number) if _averages(probe) else 1.0
        times, note = (1, _UNDONE) if alone else (int(factor), _WHOLE.format(f"{number:,}"))
        return replace(probe, whole=True, factor=factor, times=times, note=note)
    raise refusal


def _independent(probe: Probe) -> bool:
    """Whether elements keep their gradients, up to a common factor, when the others change."""
    batch, subject = probe.batch, probe.subject
    margins = batch.margins.clone()
    fixed_half = torch.arange(len(margins)) % 2 == 0

    def gradient(m: Tensor) -> Tensor:
        m = m.clone().requires_grad_()
        with seeded():
            value = probe._value(subject.make(**probe.fixed), m)
            return torch.autograd.grad(value.sum(), m)[0][fixed_half]

    # Not their mirror image, which could leave sums as they are.
    others = torch.where(fixed_half, margins, 0.4 * margins + 2)
    first, second = gradient(margins), gradient(others)
    size = first.abs().max()
    if not size > 0:
        return True
    common = (first * second).sum() / first.square().sum()
    return bool((second - common * first).abs().max() <= 1e-4 * common.abs() * size)


def _averages(probe: Probe) -> bool:
    """Whether a batch taken twice has the loss of the batch, and not twice that."""
    batch = probe.batch
    twice = replace(
        batch,
        predictions=lambda m: batch.predictions(m).repeat(
            2, *[1] * (batch.predictions(m).ndim - 1)
        ),
        targets=batch.targets.repeat(2, *[1] * (batch.targets.ndim - 1)),
    )
    with seeded(), torch.no_grad():
        loss = probe.subject.make(**probe.fixed)
        once = probe._value(loss, batch.margins).sum()
        both = replace(probe, batch=twice)._value(loss, batch.margins).sum()
    return bool((both - once).abs() < 0.5 * once.abs())


def _integral(batch: Batch, gradient: np.ndarray) -> np.ndarray:
    """Minus the integral of the gradient from each element's margin to the largest of its group."""
    found = np.zeros_like(gradient)
    margins = batch.margins.numpy()
    for members in batch.groups.values():
        order = members.numpy()[np.argsort(margins[members.numpy()], kind="stable")]
        m, g = margins[order], gradient[order]
        steps = np.diff(m) * (g[1:] + g[:-1]) / 2
        found[order[:-1]] = -steps[::-1].cumsum()[::-1]
    return found
