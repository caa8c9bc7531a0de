"""Conformance of losses: what `losslab check LOSS` runs, for ours and for anybody's.

Each check is a function of a `Subject` that returns a detail, raises `Failure` with numbers, or
raises `Skip` with the reason why it does not apply.
"""

from collections.abc import Callable
from typing import Any

import torch

from losslab.losses.conformance import (
    conventions,
    effects,
    gradients,
    numerics,
    state,
    transforms,
)
from losslab.losses.conformance.outcomes import (
    FAILED,
    PASSED,
    SKIPPED,
    Failure,
    Outcome,
    Report,
    Skip,
)
from losslab.losses.conformance.subject import Subject, subjects

Check = Callable[[Subject], str]

#: Name and function of every check, in the order of the table.
CHECKS: dict[str, Check] = {
    "a plain call": state.plain_call,
    "settings untouched": state.settings_untouched,
    "grad mode": state.grad_mode,
    "inputs untouched": state.inputs_untouched,
    "same call, same value": state.repeatable,
    "instances apart": state.instances_apart,
    "gradient against finite differences": gradients.finite_differences,
    "gradient under each reduction": gradients.every_reduction,
    "gradient at soft targets": gradients.soft_target_gradient,
    "soft targets are a mixture": gradients.soft_target_mixture,
    "float32 against float64": gradients.float32_gradient,
    "second order": gradients.second_order,
    "backward twice, and scaled": gradients.repeated_backward,
    "no gradient into weights and state": gradients.nothing_learns,
    "extreme logits": numerics.extreme_logits,
    "extreme logits in bfloat16": numerics.extreme_bfloat16,
    "extreme logits in float16": numerics.extreme_float16,
    "half precision": numerics.half_agrees,
    "strided tensors": numerics.non_contiguous,
    "reductions": conventions.reductions,
    "a batch twice": conventions.doubled_batch,
    "ignoring is deleting": conventions.ignoring,
    "order of examples": conventions.permutation,
    "classes and positions apart": conventions.positions,
    "empty batch": conventions.empty_batch,
    "one-sided batches": conventions.one_sided_batches,
    "one example": conventions.one_example,
    "class weights": conventions.class_weights,
    "eval leaves the state": state.evaluation_leaves_state,
    "checkpoint": state.checkpoint,
    "batch after batch": state.successive_batches,
    "dtype casts": state.moves_dtype,
    "vmap against a loop": transforms.stacked,
    "torch.compile": transforms.compiled,
    "every hyper-parameter has an effect": effects.every_hyperparameter,
    "declared ranges": effects.defaults_in_range,
    "documented": effects.documented,
    "identities": effects.identities,
}

# Where one of these fails, others would fail too without being the reason.
_FIRST = (
    "a plain call",
    "settings untouched",
    "grad mode",
    "inputs untouched",
    "same call, same value",
    "instances apart",
)
_BY_THEMSELVES = {
    "checkpoint",
    "eval leaves the state",
    "batch after batch",
    "no gradient into weights and state",
    "declared ranges",
    "documented",
}


def check_loss(
    name: str, link: str | None = None, leave_out: tuple[str, ...] = (), **arguments: Any
) -> list[Report]:
    """Check the loss `name` (registered, or a path) under every link and layout that it takes.

    `link` picks one; `leave_out` names checks to leave out; `arguments` go to the constructor.
    Raises `BadInput` where the loss cannot be built or takes no batch.

    >>> [report.failures for report in check_loss("ce", "softmax", leave_out=("torch.compile",))]
    [[], []]
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [check_subject(each, leave_out) for each in subjects(name, link, **arguments)]
    finally:
        torch.set_num_threads(threads)


def check_subject(subject: Subject, leave_out: tuple[str, ...] = ()) -> Report:
    """All checks of one case."""
    outcomes: list[Outcome] = []
    broken = ""
    for name, check in CHECKS.items():
        if name in leave_out:
            continue
        by_itself = name in _BY_THEMSELVES and broken != "a plain call"
        if broken and not by_itself and (name not in _FIRST or broken == "a plain call"):
            outcomes.append(Outcome(name, SKIPPED, f"means nothing while {broken!r} fails"))
            continue
        outcomes.append(_outcome(name, check, subject))
        if name in _FIRST and outcomes[-1].status == FAILED:
            broken = broken or name
    return Report(subject.name, subject.case, tuple(outcomes))


def _outcome(name: str, check: Check, subject: Subject) -> Outcome:
    try:
        with torch.enable_grad():  # which a loss that leaks its mode leaves as it should not
            return Outcome(name, PASSED, check(subject))
    except Skip as reason:
        return Outcome(name, SKIPPED, str(reason))
    except Failure as failure:
        return Outcome(name, FAILED, str(failure))
    except Exception as error:  # whatever a stranger's loss raises is a finding
        told = " ".join(str(error).split())[:200]
        return Outcome(name, FAILED, f"raised {type(error).__name__}: {told}")
