"""Checks of derivatives: finite differences, precision, second order, repeated backward."""

from collections.abc import Callable

import torch
from torch import Tensor

from losslab.losses.base import Loss
from losslab.losses.conformance.frozen import Tape
from losslab.losses.conformance.outcomes import Failure, Skip
from losslab.losses.conformance.subject import Subject, clone, seeded, value_and_gradient

# Steps of central differences; the second is for what the first gets wrong.
STEPS = (1e-5, 2e-4)
TOLERANCE = 1e-5  # of the largest slope


def finite_differences(subject: Subject) -> str:
    """The gradient is the slope of the value, with state and detached weights frozen."""
    worst = 0.0
    for values in subject.spaces(draws=3):
        loss = subject.make(**values)
        logits, targets = subject.batch(seed=1)
        # Every logit at the defaults; elsewhere a few directions, which no wrong entry survives.
        worst = max(worst, _compare(loss, logits, targets, values, directions=4 if values else 0))
    # Far out too, where most slopes are flat or steady and a formula's branches may end.
    logits, targets = subject.batch(seed=44)
    worst = max(worst, _compare(subject.make(), 4 * logits + 6 * logits.sign(), targets, {}, 6))
    if not worst_slope(subject):
        raise Failure("the gradient is 0 everywhere")
    return f"largest error {worst:.0e} of the largest slope"


def every_reduction(subject: Subject) -> str:
    """The gradient is right under every reduction; under `none`, whatever comes from above."""
    logits, targets = subject.batch(seed=45)
    told = []
    for reduction in subject.says.reductions if subject.own else ("mean", "sum", "none"):
        try:
            loss = subject.make(reduction=reduction)
        except Exception as error:
            if subject.own:
                raise
            raise Skip("takes no reduction") from error
        _compare(loss, logits, targets, {}, directions=2, what=f", reduction {reduction}")
        told.append(reduction)
    return ", ".join(told)


def worst_slope(subject: Subject) -> float:
    """The largest slope on ordinary logits."""
    return value_and_gradient(subject.make(), *subject.batch(seed=46))[1].abs().max().item()


def soft_target_gradient(subject: Subject) -> str:
    """The gradient is right for soft targets too."""
    if subject.link != "sigmoid":
        raise Skip("soft targets exist under sigmoid")
    if subject.says.soft_targets == "hard":
        raise Skip("takes hard targets only")
    logits, targets = subject.batch(seed=2)
    soft = (
        0.1 + 0.8 * torch.rand(targets.shape, generator=torch.Generator().manual_seed(0)).double()
    )
    try:
        subject.make()(logits, soft)
    except Exception as error:
        if subject.own:
            raise
        raise Skip(f"refuses soft targets: {type(error).__name__}") from error
    worst = _compare(subject.make(), logits, soft, {})
    return f"largest error {worst:.0e} of the largest slope"


def soft_target_mixture(subject: Subject) -> str:
    """Soft targets mix the two hard losses, y L(1) + (1-y) L(0), where the loss says so."""
    if subject.link != "sigmoid" or subject.says.soft_targets != "mixture":
        raise Skip("claims no mixture")
    if "none" not in subject.says.reductions or _looks_at_batches(subject):
        raise Skip("an element's value depends on the others")
    logits, targets = subject.batch(seed=2)
    y = torch.rand(targets.shape, generator=torch.Generator().manual_seed(0)).double()
    loss = subject.make(reduction="none")
    at_one, at_zero = loss(logits, torch.ones_like(y)), loss(logits, torch.zeros_like(y))
    error = (loss(logits, y) - y * at_one - (1 - y) * at_zero).abs().max().item()
    if error > 1e-9 * max(1.0, at_one.abs().max().item()):
        raise Failure(f"differs from the mixture by {error:.3g}")
    return f"to {error:.0e}"


def float32_gradient(subject: Subject) -> str:
    """Value and gradient in float32 are those in float64 to float32's precision."""
    worst = 0.0
    for values in subject.spaces(draws=2):
        logits, targets = subject.batch(seed=3)
        logits = 4 * logits
        single = value_and_gradient(
            subject.make(**values), logits.float(), _as(targets, torch.float32)
        )
        double = value_and_gradient(subject.make(**values), logits.float().double(), targets)
        for what, found, exact in zip(("value", "gradient"), single, double, strict=True):
            scale = exact.abs().max().clamp(min=1e-12)
            error = ((found.double() - exact).abs().max() / scale).item()
            if not error <= 1e-3:
                raise Failure(
                    f"the float32 {what} is {error:.2g} away from the float64 one, relative to its "
                    f"largest entry, at {_told(values)}"
                )
            worst = max(worst, error)
    return f"largest difference {worst:.0e}"


def second_order(subject: Subject) -> str:
    """Second derivatives are the slopes of the gradient, where the loss claims them."""
    if not subject.says.second_order:
        raise Skip("not claimed")
    logits, targets = subject.batch(seed=4, size=3)
    loss = subject.make()
    direction = torch.randn(logits.shape, generator=torch.Generator().manual_seed(5)).double()
    tape = Tape()

    def gradient(x: Tensor, graph: bool) -> Tensor:
        x = x if x.requires_grad else x.clone().requires_grad_()
        with seeded(), tape.playing():
            value = loss(x, targets).sum()
        return torch.autograd.grad(value, x, create_graph=graph)[0]

    gradient(logits, False)
    x = logits.clone().requires_grad_()
    first = gradient(x, True)
    if not first.requires_grad:
        raise Failure("the gradient under create_graph=True has no graph of its own")
    (product,) = torch.autograd.grad(first, x, direction)
    slope = _central(lambda step: gradient(logits + step * direction, False), STEPS[0])
    coarse = _central(lambda step: gradient(logits + step * direction, False), STEPS[1])
    error = torch.minimum((product - slope).abs(), (product - coarse).abs()).max().item()
    scale = max(slope.abs().max().item(), 1e-6)
    if not error <= 1e-4 * scale:
        raise Failure(f"Hessian times a vector is off by {error / scale:.2g} of its largest entry")
    return f"largest error {error / scale:.0e}"


def repeated_backward(subject: Subject) -> str:
    """A second backward pass gives the same gradient, and k times the upstream k times it."""
    logits, targets = subject.batch(seed=6)
    x = logits.requires_grad_()
    with seeded():
        value = subject.make()(x, targets).sum()
    (first,) = torch.autograd.grad(value, x, retain_graph=True)
    first = first.clone()
    (scaled,) = torch.autograd.grad(value, x, torch.tensor(-3.0).to(value), retain_graph=True)
    (again,) = torch.autograd.grad(value, x)
    if not torch.equal(first, again):
        raise Failure(f"the second gradient differs by {(first - again).abs().max():.3g}")
    _close("the gradient is not linear in what comes from above", scaled, -3 * first, 1e-6)
    return ""


def nothing_learns(subject: Subject) -> str:
    """No gradient into or through hyper-parameters, weights and state."""
    loss = subject.make()
    for _ in range(2):
        logits, targets = subject.batch(seed=7)
        with seeded():
            loss(logits.requires_grad_(), targets).sum().backward()
    learning = [name for name, buffer in loss.named_buffers() if buffer.requires_grad]
    if learning:
        raise Failure(f"these buffers carry a gradient: {', '.join(learning)}")
    parameters = [name for name, _ in loss.named_parameters()]
    if parameters:
        raise Failure(
            f"has parameters of its own, which no optimiser gets: {', '.join(parameters)}"
        )
    held = [
        name
        for name, value in vars(loss).items()
        if isinstance(value, Tensor) and value.grad_fn is not None
    ]
    if held:
        raise Failure(f"keeps the graph of a batch in: {', '.join(held)}")
    return ""


def _compare(
    loss: torch.nn.Module,
    logits: Tensor,
    targets: Tensor,
    values: dict,
    directions: int = 0,
    what: str = "",
) -> float:
    """Largest error of the gradient, relative to the largest slope; raises `Failure`.

    Along every logit by itself, or along that many random directions.
    """
    plain, tape = clone(loss), Tape()
    with seeded(), tape:
        recorded = loss(logits.clone().requires_grad_(), targets).detach()
    # Random weights from above, so that values of single elements do not hide in their sum.
    above = torch.ones_like(recorded)
    if recorded.ndim:
        draw = torch.Generator().manual_seed(9)
        above = torch.randn(recorded.shape, generator=draw, dtype=recorded.dtype)

    def replay(start: torch.nn.Module, x: Tensor) -> Tensor:
        # What a loss changes without grad has happened on the recording run; the rest happens anew.
        own = clone(start) if moves else start
        with seeded(), tape.playing():
            return (own(x, targets) * above).sum()

    moves = not isinstance(loss, Loss) or bool(loss.state_dict())
    same = [
        each
        for each in (loss, plain)
        if torch.equal(replay(each, logits).detach(), (recorded * above).sum())
    ]
    start = same[0] if same else loss

    def value(x: Tensor) -> Tensor:
        return replay(start, x)

    x = logits.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(x), x)
    x = logits.clone().requires_grad_()
    with seeded():
        (ordinary,) = torch.autograd.grad((clone(plain)(x, targets) * above).sum(), x)
    exact = recorded.dtype == torch.float64 and not tape.saw_float32
    ways = _ways(logits, directions)
    steps = STEPS if exact else (3e-2, 6e-2)
    tolerance = TOLERANCE if exact else 2e-2

    def slopes(step: float) -> Tensor:
        def along(way: Tensor) -> Callable[[float], Tensor]:
            return lambda h: value(logits + h * way).detach()

        return torch.stack([_central(along(way), step) for way in ways])

    fine, coarse = slopes(steps[0]), None
    worst = 0.0
    for found, which in ((gradient, "gradient"), (ordinary, "gradient of an ordinary call")):
        along = (ways * found).flatten(1).sum(1)
        scale = max(fine.abs().max().item(), gradient.abs().max().item(), 1e-8)
        errors = ((along - fine).abs() / scale).nan_to_num(nan=torch.inf)
        if errors.max() > tolerance:  # a kink within one step is not within the other
            coarse = slopes(steps[1]) if coarse is None else coarse
            errors = torch.minimum(errors, ((along - coarse).abs() / scale).nan_to_num(torch.inf))
        worst = max(worst, errors.max().item())
        if worst > tolerance:
            at = int(errors.argmax())
            where = "in a random direction" if directions else f"at logit {logits.view(-1)[at]:.4g}"
            raise Failure(
                f"{which} {along[at]:.6g}, finite difference {fine[at]:.6g} {where}, "
                f"{_told(values)}{what}"
            )
    return worst


def _ways(logits: Tensor, directions: int) -> Tensor:
    """Unit steps along every logit, or random directions of about the same length."""
    if not directions:
        return torch.eye(logits.numel(), dtype=logits.dtype).reshape(-1, *logits.shape)
    draw = torch.Generator().manual_seed(directions)
    ways = torch.randn(directions, *logits.shape, generator=draw, dtype=logits.dtype)
    return ways / ways.flatten(1).norm(dim=1).reshape(-1, *[1] * logits.ndim)


def _central(function: Callable[[float], Tensor], step: float) -> Tensor:
    """Fourth-order central difference."""
    near = function(step) - function(-step)
    far = function(2 * step) - function(-2 * step)
    return (8 * near - far) / (12 * step)


def _looks_at_batches(subject: Subject) -> bool:
    hooks = ("observe", "selected", "batch_weights", "reduced")
    return any(getattr(subject.says, hook) is not getattr(Loss, hook) for hook in hooks)


def _as(targets: Tensor, dtype: torch.dtype) -> Tensor:
    return targets.to(dtype) if targets.is_floating_point() else targets


def _told(values: dict[str, float]) -> str:
    return ", ".join(f"{name}={value:g}" for name, value in values.items()) or "defaults"


def _close(what: str, found: Tensor, expected: Tensor, tolerance: float) -> None:
    scale = max(expected.abs().max().item(), 1e-12)
    error = (found - expected).abs().max().item() / scale
    if not error <= tolerance:
        raise Failure(f"{what}: off by {error:.3g} of the largest entry")
