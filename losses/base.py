"""What every loss shares: hyper-parameters, shapes, ignored elements, weights, reduction.

A subclass writes `elementwise`, one differentiable value per element; see docs/losses.md.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from losslab.errors import BadInput
from losslab.hyperparameters import Hyperparameter, check_values
from losslab.losses.arguments import choice_problem, class_vector, ignore_problems
from losslab.losses.closed_form import compute_dtype, is_plain
from losslab.losses.identity import Identity
from losslab.losses.reduction import REDUCTIONS, TOTALS, reduce
from losslab.losses.shapes import check_shapes, kept_elements
from losslab.losses.weighting import over_classes

#: The methods that say what a loss computes.
_COMPUTING = ("elementwise", "reduced", "observe", "selected", "batch_weights", "class_weighting")


class Loss(nn.Module):
    """Base of all losses: logits and targets in, one reduced value out.

    Arguments: `link` "sigmoid", "softmax" or "identity" (regression: no link function), by default
    the first of `links`; `reduction` (see `forward`); `class_counts` (C,) training examples per
    class; `class_weights` (C,) fixed factors >= 0, per target class under softmax and per column
    (dimension 1) under sigmoid; `ignore_index` the target value that is left out, or None; and the
    loss's own hyper-parameters by name. Raises `BadInput` with every mistake.

    Under sigmoid two class counts are those of the negatives and positives of one binary output,
    whatever the shape of the logits; more are one per column.

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
    reductions: ClassVar[tuple[str, ...]] = REDUCTIONS
    #: Hyper-parameters that exist under one link only, as {name: link}.
    only_under: ClassVar[dict[str, str]] = {}
    #: Constructor arguments that set shapes or code paths; losses that differ in one never stack.
    structural: ClassVar[tuple[str, ...]] = ()
    #: Whether `elementwise` takes half-precision logits as they are and upcasts by itself.
    upcasts: ClassVar[bool] = False

    # What a loss says of itself; its page prints it and `losslab check` holds it to it.
    formula: ClassVar[str] = ""
    citation: ClassVar[str] = ""
    #: "mixture" (y L(1) + (1-y) L(0)), "hard" (0 and 1 only), or what else is made of soft ones.
    soft_targets: ClassVar[str] = ""
    #: Whether second derivatives are right.
    second_order: ClassVar[bool] = False
    #: Whether the logits it trains lack the prior: argmax of the raw logits is then balanced.
    prior_shifted: ClassVar[bool] = False
    #: Whether it draws elements at random, by their position in the batch.
    samples: ClassVar[bool] = False
    #: The last layer it is made for: "linear", or "cosine" (normalised features and weights).
    head: ClassVar[str] = "linear"
    identities: ClassVar[tuple[Identity, ...]] = ()

    class_counts: Tensor | None
    class_weights: Tensor | None
    progress: Tensor

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        # A subclass that computes something else must not inherit its parent's short way.
        if "fused" not in vars(cls) and any(name in vars(cls) for name in _COMPUTING):
            cls.fused = Loss.fused  # type: ignore[method-assign]

    def __init__(
        self,
        *,
        link: str | None = None,
        reduction: str = "mean",
        class_counts: Sequence[int] | Tensor | None = None,
        class_weights: Sequence[float] | Tensor | None = None,
        ignore_index: int | None = -100,
        **hyperparameters: float,
    ):
        super().__init__()
        owner, cls = type(self).__name__, type(self)
        link = cls.links[0] if link is None else link
        problems: list[str] = []
        values: dict[str, float] = {}
        for what, given, known in (
            ("link", link, cls.links),
            ("reduction", reduction, cls.reductions),
        ):
            if problem := choice_problem(what, given, known):
                problems.append(f"{owner}: {problem}")
        try:
            declared = cls.declared(link) if link in cls.links else cls.hyperparameters
            values = check_values(owner, declared, hyperparameters)
        except BadInput as error:
            problems += error.problems
        wrong = ignore_problems(link, ignore_index)
        counts = class_vector("class_counts", class_counts, wrong)
        weights = class_vector("class_weights", class_weights, wrong)
        problems += [f"{owner}: {problem}" for problem in wrong]
        if class_counts is None and link in cls.links and cls.needs_class_counts(link, values):
            problems.append(
                f"{owner}: class_counts is missing; under link={link!r} with these "
                f"hyper-parameters the loss is made of them"
            )
        if problems:
            raise BadInput(problems)
        self.link, self.reduction = link, reduction
        self.ignore_index = None if link == "identity" else ignore_index
        for name, value in values.items():
            self.register_buffer(name, torch.tensor(value, dtype=torch.float64), persistent=False)
        self.register_buffer("class_counts", counts, persistent=False)
        self.register_buffer("class_weights", weights, persistent=False)
        self.register_buffer("progress", torch.zeros((), dtype=torch.float64), persistent=False)
        self._names = tuple(values)

    @classmethod
    def declared(cls, link: str) -> dict[str, Hyperparameter]:
        """The hyper-parameters that exist under `link`: what a study can search.

        Raises `BadInput` if the loss does not exist under that link.

        >>> Loss.declared("softmax")
        {}
        """
        if problem := choice_problem("link", link, cls.links):
            raise BadInput(f"{cls.__name__}: {problem}")
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

    @classmethod
    def last_change(cls, values: dict[str, float]) -> float:
        """The fraction of a training after which the loss changes no more; 0 without a schedule.

        >>> Loss.last_change({})
        0.0
        """
        return 0.0

    def set_progress(self, fraction: float) -> None:
        """Say how much of the training is done, from 0 to 1: what a schedule reads.

        The runner calls it before every step; in a loop of your own, so do you. The loss reads
        `self.progress`, a 0-dimensional tensor.
        """
        self.progress.fill_(fraction)

    def elementwise(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Loss per element, unreduced: the one method that a subclass writes.

        Sigmoid: `targets` in [0, 1], floating, of the shape of `logits`. Softmax: `logits`
        (N, C, ...), integer `targets` (N, ...) in [0, C). Identity: `targets` of the shape of the
        predictions. Returns the shape of `targets`. Ignored elements come with logit 0 and target
        0, and what is returned for them is not used.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define elementwise")

    def observe(self, logits: Tensor, targets: Tensor, kept: Tensor) -> None:
        """Update the loss's state from a batch, in place; called in training mode, without grad.

        Called before `elementwise`, with its arguments and the mask `kept` (the shape of `targets`)
        of the elements that are not ignored. State lives in persistent buffers, int64 or float64,
        of one dimension or more: torch.compile drops changes of 0-dimensional float64 tensors.
        """

    def selected(self, values: Tensor, targets: Tensor, kept: Tensor) -> Tensor | None:
        """Mask of the elements that a loss which mines or samples keeps; the others are ignored.

        `values` (unweighted, detached), `targets` and `kept` have one shape, and so has the mask.
        """
        return None

    def batch_weights(self, logits: Tensor, targets: Tensor, kept: Tensor) -> Tensor | None:
        """Detached factors, of the shape of `targets`, that depend on the whole batch."""
        return None

    def element_weights(self, targets: Tensor) -> Tensor | None:
        """Weights that `elementwise` has multiplied in already; `weight_sum` divides by them."""
        return None

    def class_weighting(self) -> Tensor | None:
        """Class weights (C,) that come from hyper-parameters; the base multiplies them in."""
        return None

    def fused(self, logits: Tensor, targets: Tensor) -> Tensor | None:
        """The reduced loss in one pass over logits and targets, where there is a way.

        None leads to `elementwise`. Called under sigmoid without class weights.
        """
        return None

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss of a batch, reduced.

        Sigmoid: `logits` of any shape, `targets` of that shape in [0, 1]. Softmax: `logits`
        (N, C, ...) with C >= 2 and integer `targets` (N, ...). Identity: predictions and floating
        targets of one shape. Where no element is left the loss is 0 with gradient 0. Computed in
        float32, in float64 for float64 logits.

        Reductions: `none`; `sum`; `mean` divides by the elements that are not ignored;
        `positives` by the positives, at least 1 (sigmoid: the sum of the targets; softmax: targets
        that are not class 0); `weight_sum` by the sum of the elements' weights.

        Raises `BadInput` if shapes or dtypes do not fit, and, for plain CPU tensors, if a target
        lies outside its range.

        >>> from losslab.losses.cross_entropy import CrossEntropy
        >>> CrossEntropy(reduction="sum")(torch.zeros(3), torch.tensor([0, 1, -100]))
        tensor(1.3863)
        """
        check_shapes(self, logits, targets)
        if self.link == "sigmoid" and self.class_weights is None and self.reduction in TOTALS:
            fused = self.fused(logits, targets)
            if fused is not None:
                return fused
        kept = kept_elements(self, logits, targets)
        if kept is not None:
            # Before the non-linear part: a product afterwards would make nan of inf * 0.
            targets = torch.where(kept, targets, 0)
            logits = torch.where(kept if self.link == "sigmoid" else kept.unsqueeze(1), logits, 0)
        dtype = compute_dtype(logits.dtype)
        targets = targets.long() if self.link == "softmax" else targets.to(dtype)
        if not self.upcasts:
            logits = logits.to(dtype)
        return self.reduced(logits, targets, kept, dtype)

    def reduced(
        self, logits: Tensor, targets: Tensor, kept: Tensor | None, dtype: torch.dtype
    ) -> Tensor:
        """From clean logits and targets to the loss; `kept` None keeps all. See `forward`."""
        mask = self._watch(logits, targets, kept)
        values = self.elementwise(logits, targets)
        if values.shape != targets.shape:
            raise BadInput(
                f"{type(self).__name__}.elementwise returned shape {tuple(values.shape)}; "
                f"expected one value per target, {tuple(targets.shape)}"
            )
        values = values.to(dtype)
        factor = None
        if mask is not None:
            with torch.no_grad():
                chosen = self.selected(values.detach(), targets, mask)
                factor = self.batch_weights(logits.detach(), targets, mask)
            kept = kept if chosen is None else chosen & mask
        weights = self._class_factors(logits, targets, dtype)
        for each in (weights, factor):
            if each is not None:
                values = values * each.to(dtype)
        positive: Tensor = targets != 0 if self.link == "softmax" else targets
        if kept is not None:
            values = torch.where(kept, values, 0)
            positive = torch.where(kept, positive, 0)
        inner = self.element_weights(targets) if self.reduction == "weight_sum" else None
        return reduce(values, self.reduction, positive, (weights, inner, factor), kept)

    @property
    def hyperparameter_values(self) -> dict[str, float]:
        """The hyper-parameters as plain numbers, by name."""
        return {name: getattr(self, name).item() for name in self._names}

    @property
    def columns(self) -> int | None:
        """Binary outputs under sigmoid: 1 where class counts tell of two classes, None unknown."""
        if self.class_counts is None:
            return None
        classes = self.class_counts.shape[-1]
        return 1 if classes == 2 else classes

    def extra_repr(self) -> str:
        """Link, reduction, structural options and hyper-parameters, for `repr`."""
        told = [f"link={self.link!r}", f"reduction={self.reduction!r}"]
        told += [f"{name}={getattr(self, name)!r}" for name in self.structural]
        for name in self._names:
            value = getattr(self, name)
            told.append(f"{name}={value.item():g}" if is_plain(value) else f"{name}={value}")
        if self.link != "identity" and self.ignore_index != -100:
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

    def _watch(self, logits: Tensor, targets: Tensor, kept: Tensor | None) -> Tensor | None:
        """Let a loss that looks at whole batches see this one; the mask it needs, else None."""
        hooks = ("observe", "selected", "batch_weights")
        if all(getattr(type(self), hook) is getattr(Loss, hook) for hook in hooks):
            return None
        mask = torch.ones_like(targets, dtype=torch.bool) if kept is None else kept
        if self.training:
            with torch.no_grad():
                self.observe(logits.detach(), targets, mask)
        return mask

    def _class_factors(self, logits: Tensor, targets: Tensor, dtype: torch.dtype) -> Tensor | None:
        parts = [w for w in (self.class_weights, self.class_weighting()) if w is not None]
        if not parts or self.link == "identity":
            return None
        vector = (parts[0] if len(parts) == 1 else parts[0] * parts[1]).to(dtype)
        return vector[targets] if self.link == "softmax" else over_classes(vector, logits)
