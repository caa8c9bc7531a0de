"""What every loss shares: hyper-parameters, shapes, ignored elements, weights, reduction.

A subclass writes `elementwise`, one differentiable value per element; see docs/losses.md.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from losslab.errors import BadInput
from losslab.hyperparameters import Hyperparameter, check_values
from losslab.losses.closed_form import compute_dtype, is_plain
from losslab.losses.reduction import REDUCTIONS, reduce
from losslab.losses.weighting import class_weights_from_counts as class_weights_from_counts
from losslab.registry import nearest


class Loss(nn.Module):
    """Base of all losses: logits and targets in, one reduced value out.

    Arguments: `link` "sigmoid" or "softmax"; `reduction` (see `forward`); `class_counts` (C,)
    training examples per class; `class_weights` (C,) fixed factors >= 0, per target class under
    softmax and per column (dimension 1) under sigmoid; `ignore_index` the target value that is left
    out, or None; and the loss's own hyper-parameters by name. Raises `BadInput` with every mistake.

    Hyper-parameters are 0-dimensional float64 buffers outside the state dict: dtype casts leave
    them alone, device moves take them along, and `torch.func.functional_call` can replace them.

    >>> class Brier(Loss):
    ...     links = ("sigmoid",)
    ...     hyperparameters = {"power": Hyperparameter(2.0, low=1.0, high=4.0, meaning="exponent")}
    ...     def elementwise(self, logits, targets):
    ...         return (torch.sigmoid(logits) - targets).abs() ** self.power
    >>> Brier(power=3)
    Brier(link='sigmoid', reduction='mean', power=3)
    >>> Brier(power=3)(torch.zeros(4), torch.tensor([0, 1, 1, -100]))
    tensor(0.1250)
    """

    hyperparameters: ClassVar[dict[str, Hyperparameter]] = {}
    links: ClassVar[tuple[str, ...]] = ("sigmoid", "softmax")
    #: Hyper-parameters that exist under one link only, as {name: link}.
    only_under: ClassVar[dict[str, str]] = {}
    #: Whether `elementwise` takes half-precision logits as they are and upcasts by itself.
    upcasts: ClassVar[bool] = False

    class_counts: Tensor | None
    class_weights: Tensor | None

    def __init__(
        self,
        *,
        link: str = "sigmoid",
        reduction: str = "mean",
        class_counts: Sequence[int] | Tensor | None = None,
        class_weights: Sequence[float] | Tensor | None = None,
        ignore_index: int | None = -100,
        **hyperparameters: float,
    ):
        super().__init__()
        owner, cls = type(self).__name__, type(self)
        problems: list[str] = []
        values: dict[str, float] = {}
        if link not in cls.links:
            problems.append(f"{owner}: {_choice('link', link, cls.links)}")
        if reduction not in REDUCTIONS:
            problems.append(f"{owner}: {_choice('reduction', reduction, REDUCTIONS)}")
        try:
            declared = cls.declared(link) if link in cls.links else cls.hyperparameters
            values = check_values(owner, declared, hyperparameters)
        except BadInput as error:
            problems += error.problems
        problems += _ignore_problems(owner, link, ignore_index)
        counts = _vector(owner, "class_counts", class_counts, problems)
        weights = _vector(owner, "class_weights", class_weights, problems)
        if class_counts is None and link in cls.links and cls.needs_class_counts(link, values):
            problems.append(
                f"{owner}: class_counts is missing; under link={link!r} with these "
                f"hyper-parameters the weights are made of them"
            )
        if problems:
            raise BadInput(problems)
        self.link, self.reduction, self.ignore_index = link, reduction, ignore_index
        for name, value in values.items():
            self.register_buffer(name, torch.tensor(value, dtype=torch.float64), persistent=False)
        self.register_buffer("class_counts", counts, persistent=False)
        self.register_buffer("class_weights", weights, persistent=False)
        self._names = tuple(values)

    @classmethod
    def declared(cls, link: str) -> dict[str, Hyperparameter]:
        """The hyper-parameters that exist under `link`: what a study can search.

        Raises `BadInput` if the loss does not exist under that link.

        >>> Loss.declared("softmax")
        {}
        """
        if link not in cls.links:
            raise BadInput(f"{cls.__name__}: {_choice('link', link, cls.links)}")
        return {
            name: entry
            for name, entry in cls.hyperparameters.items()
            if cls.only_under.get(name, link) == link
        }

    @classmethod
    def needs_class_counts(cls, link: str, values: dict[str, float]) -> bool:
        """Whether `class_counts` must be given under `link` with these hyper-parameters.

        >>> Loss.needs_class_counts("softmax", {})
        False
        """
        return False

    def elementwise(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Loss per element, unreduced: the one method that a subclass writes.

        Sigmoid: `targets` in [0, 1], floating, of the shape of `logits`. Softmax: `logits`
        (N, C, ...), integer `targets` (N, ...) in [0, C). Returns the shape of `targets`. Ignored
        elements come with logit 0 and target 0, and what is returned for them is not used.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define elementwise")

    def element_weights(self, targets: Tensor) -> Tensor | None:
        """Weights that `elementwise` has multiplied in already; `weight_sum` divides by them."""
        return None

    def class_weighting(self) -> Tensor | None:
        """Class weights (C,) that come from hyper-parameters; the base multiplies them in."""
        return None

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss of a batch, reduced.

        Sigmoid: `logits` of any shape, `targets` of that shape in [0, 1]. Softmax: `logits`
        (N, C, ...) with C >= 2 and integer `targets` (N, ...). Where no element is left the loss
        is 0 with gradient 0. Computed in float32, in float64 for float64 logits.

        Reductions: `none`; `sum`; `mean` divides by the elements that are not ignored;
        `positives` by the positives, at least 1 (sigmoid: the sum of the targets; softmax: targets
        that are not class 0); `weight_sum` by the sum of the elements' weights.

        Raises `BadInput` if shapes or dtypes do not fit, and, for plain CPU tensors, if a target
        lies outside its range.

        >>> from losslab.losses.cross_entropy import CrossEntropy
        >>> CrossEntropy(reduction="sum")(torch.zeros(3), torch.tensor([0, 1, -100]))
        tensor(1.3863)
        """
        self._check(logits, targets)
        dtype = compute_dtype(logits.dtype)
        kept = self._kept(logits, targets)
        if kept is not None:
            # Before the non-linear part: a product afterwards would make nan of inf * 0.
            targets = torch.where(kept, targets, 0)
            logits = torch.where(kept if self.link == "sigmoid" else kept.unsqueeze(1), logits, 0)
        softmax = self.link == "softmax"
        targets = targets.long() if softmax else targets.to(dtype)
        values = self.elementwise(logits if self.upcasts else logits.to(dtype), targets)
        if values.shape != targets.shape:
            raise BadInput(
                f"{type(self).__name__}.elementwise returned shape {tuple(values.shape)}; "
                f"expected one value per target, {tuple(targets.shape)}"
            )
        values = values.to(dtype)
        weights = self._weights(logits, targets, dtype)
        if weights is not None:
            values = values * weights
        if kept is not None:
            values = torch.where(kept, values, 0)
        inner = self.element_weights(targets) if self.reduction == "weight_sum" else None
        return reduce(
            values, self.reduction, targets != 0 if softmax else targets, (weights, inner), kept
        )

    @property
    def hyperparameter_values(self) -> dict[str, float]:
        """The hyper-parameters as plain numbers, by name."""
        return {name: getattr(self, name).item() for name in self._names}

    def extra_repr(self) -> str:
        """Link, reduction and hyper-parameters, for `repr`."""
        told = [f"link={self.link!r}", f"reduction={self.reduction!r}"]
        for name in self._names:
            value = getattr(self, name)
            told.append(f"{name}={value.item():g}" if is_plain(value) else f"{name}={value}")
        if self.ignore_index != -100:
            told.append(f"ignore_index={self.ignore_index}")
        return ", ".join(told)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Loss":
        # .half() and .to(dtype) come through here; float64 buffers keep dtype and exact value.
        exact = {
            name: buffer
            for name, buffer in self._buffers.items()
            if buffer is not None and buffer.dtype == torch.float64
        }
        super()._apply(fn, recurse)
        for name, buffer in exact.items():
            moved = self._buffers[name]
            assert moved is not None
            if moved.dtype != torch.float64:
                self._buffers[name] = buffer.to(moved.device)
        return self

    def _check(self, logits: Tensor, targets: Tensor) -> None:
        owner = f"{type(self).__name__}(link={self.link!r})"
        given = f"got logits {tuple(logits.shape)} and targets {tuple(targets.shape)}"
        if not logits.is_floating_point():
            raise BadInput(f"{owner} expects floating-point logits, got {logits.dtype}")
        if self.link == "sigmoid":
            if logits.shape != targets.shape:
                raise BadInput(f"{owner} expects targets of the shape of the logits; {given}")
            if self.class_weights is not None:
                columns = logits.shape[1] if logits.ndim > 1 else 1
                self._check_length("class_weights", self.class_weights, columns)
            return
        if targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool:
            raise BadInput(f"{owner} expects integer class indices, got {targets.dtype} targets")
        if logits.ndim < 2 or targets.shape != logits.shape[:1] + logits.shape[2:]:
            raise BadInput(f"{owner} expects logits (N, C, ...) and targets (N, ...); {given}")
        if logits.shape[1] < 2:
            raise BadInput(
                f"{owner} needs at least two classes in dimension 1; {given} "
                f"(one logit per example: use link='sigmoid')"
            )
        for name in ("class_counts", "class_weights"):
            self._check_length(name, getattr(self, name), logits.shape[1])

    def _check_length(self, name: str, vector: Tensor | None, classes: int) -> None:
        if vector is not None and vector.shape[-1] != classes:
            raise BadInput(
                f"{type(self).__name__}: {name} has {vector.shape[-1]} entries, "
                f"but the logits have {classes} classes"
            )

    def _kept(self, logits: Tensor, targets: Tensor) -> Tensor | None:
        """Mask of the elements that count, or None for all; looks at values only where it may."""
        if not is_plain(logits, targets):
            return None if self.ignore_index is None else targets != self.ignore_index
        if targets.numel() == 0:
            return None
        largest = 1 if self.link == "sigmoid" else logits.shape[1] - 1
        low, high = (bound.item() for bound in torch.aminmax(targets))
        in_range = low >= 0 and high <= largest  # false for nan
        if self.ignore_index is None or (in_range and not low <= self.ignore_index <= high):
            kept = None
        else:
            kept = targets != self.ignore_index
        if not in_range:
            wrong = ~((targets >= 0) & (targets <= largest))
            wrong = wrong if kept is None else wrong & kept
            if wrong.any():
                kind = "targets" if self.link == "sigmoid" else "class indices"
                raise BadInput(
                    f"{type(self).__name__}(link={self.link!r}) expects {kind} from 0 to {largest} "
                    f"or ignore_index={self.ignore_index}, got {targets[wrong][0].item()}"
                )
        return kept

    def _weights(self, logits: Tensor, targets: Tensor, dtype: torch.dtype) -> Tensor | None:
        parts = [w for w in (self.class_weights, self.class_weighting()) if w is not None]
        if not parts:
            return None
        vector = (parts[0] if len(parts) == 1 else parts[0] * parts[1]).to(dtype)
        if self.link == "softmax":
            return vector[targets]
        return vector.reshape(-1, *[1] * (logits.ndim - 2)) if logits.ndim > 1 else vector


def _choice(what: str, given: Any, known: Sequence[str]) -> str:
    hint = nearest(str(given), known)
    return f"unknown {what} {given!r}{hint} (known: {', '.join(known)})"


def _ignore_problems(owner: str, link: str, ignore_index: Any) -> list[str]:
    if ignore_index is None:
        return []
    if isinstance(ignore_index, bool) or not isinstance(ignore_index, int):
        return [f"{owner}: ignore_index must be a whole number or None, got {ignore_index!r}"]
    if link == "sigmoid" and ignore_index in (0, 1):
        return [f"{owner}: ignore_index={ignore_index} would ignore one of the two classes"]
    return []


def _vector(owner: str, name: str, given: Any, problems: list[str]) -> Tensor | None:
    if given is None:
        return None
    try:
        # float64 from the start: a list of floats would pass through float32. Copied, since the
        # caller's tensor may change later.
        exact = None if name == "class_counts" else torch.float64
        vector = torch.as_tensor(given, dtype=exact).detach().clone()
    except (TypeError, ValueError, RuntimeError):
        problems.append(f"{owner}: {name} must be a list of numbers, got {given!r}")
        return None
    if vector.ndim != 1 or vector.numel() == 0:
        problems.append(f"{owner}: {name} must have shape (C,), got {tuple(vector.shape)}")
    elif not (torch.isfinite(vector) & (vector >= 0)).all() or not (vector > 0).any():
        problems.append(f"{owner}: {name} must be finite, >= 0 and not all 0, got {given}")
    elif name == "class_counts" and not torch.equal(vector.to(torch.int64).to(vector), vector):
        problems.append(f"{owner}: class_counts must be whole numbers, got {given}")
    return vector.to(torch.int64 if name == "class_counts" else torch.float64)
