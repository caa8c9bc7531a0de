"""What a loss does to an element: its value, gradient and weight along the margin.

For any loss, over the range of each of its hyper-parameters; `losslab show loss NAME` prints it and
`losslab figures` draws it.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from scipy.special import expit

from losslab.analysis.loss_probing import Probe, probe_of
from losslab.analysis.reference_batches import ERROR, Batch
from losslab.errors import BadInput
from losslab.hyperparameters import Hyperparameter
from losslab.losses.conformance.subject import between, subjects

#: The target of curves that are the same for every target.
ANY = "any target"
_FRACTIONS = (0.0, 0.25, 0.5, 0.75, 1.0)
_CLOSE = 0.1  # of the range
_POINTS = 400  # of a curve, at most
_VISIBLE = 0.01  # of the largest value: what differs by less looks the same
_MEANS = 25  # along the margin, where elements of one margin differ


@dataclass(frozen=True)
class Curves:
    """The curves of one loss under one link.

    `frame`: one row per point; see `loss_curves`. `declared`: the hyper-parameters. `probe`: on
    what the loss was evaluated.
    """

    name: str
    link: str
    frame: pd.DataFrame
    declared: Mapping[str, Hyperparameter]
    probe: Probe

    @property
    def batch(self) -> Batch:
        """What the loss was evaluated on."""
        return self.probe.batch

    @property
    def told(self) -> str:
        """On what, and of what, for people."""
        return f"{self.batch.told.rstrip('.')}. {self.probe.note}".strip()

    def of(self, hyperparameter: str, target: str | None = None) -> pd.DataFrame:
        """The rows of one hyper-parameter, and of one target."""
        rows = self.frame[self.frame["hyperparameter"] == hyperparameter]
        return rows if target is None else rows[rows["target"] == target]

    @cached_property
    def targets(self) -> list[str]:
        """Those that have curves of their own."""
        return list(self.frame["target"].unique())

    @cached_property
    def moving(self) -> dict[str, list[str]]:
        """The hyper-parameters that change anything here, with the targets whose curves they do."""
        found = {
            str(name): [target for target in self.targets if _varies(self.of(name, target))]
            for name in self.frame["hyperparameter"].unique()
        }
        return {name: targets for name, targets in found.items() if targets}

    def active(self) -> dict[str, list[str]]:
        """`moving`, with the targets that nothing moves under the first of them.

        Where nothing changes anything, the first hyper-parameter (its name is empty for a loss
        without) has all targets.
        """
        found = dict(self.moving)
        first = next(iter(found), str(self.frame["hyperparameter"].iloc[0]))
        seen = {target for targets in found.values() for target in targets}
        found[first] = [t for t in self.targets if t in found.get(first, []) or t not in seen]
        return found

    def values(self, hyperparameter: str) -> list[float]:
        """The values that it has curves at, ascending; nan alone for the empty name."""
        return sorted(self.of(hyperparameter)["value"].unique().tolist())

    def line(self, hyperparameter: str, target: str, value: float | None = None) -> pd.DataFrame:
        """One curve; at the default where no value is given."""
        rows = self.of(hyperparameter, target)
        if not hyperparameter:
            return rows
        wanted = self.declared[hyperparameter].default if value is None else value
        return rows[rows["value"] == wanted]


def loss_curves(name: str, link: str | None = None, **fixed: Any) -> pd.DataFrame:
    """Loss, gradient and weight of the loss `name` (or a path to one) along the margin.

    One row per point: `name, link, hyperparameter` (the one that takes `value`, over its declared
    range, the others at their defaults; empty for a loss without), `target` (whose curve it is:
    positive or negative, rare or frequent class, or any where they agree), `margin` x_t, `p_t` (nan
    where there are no probabilities), `loss`, `gradient` dL/dx_t and `weight`, |dL/dx_t| over that
    of cross-entropy (for regression over that of d^2 / 2; nan for boxes). Targets are hard. `fixed`
    are constructor arguments. Raises `BadInput` for what is no loss, or cannot be built or
    evaluated.

    >>> found = loss_curves("quality_focal").query("margin == 0 and value == 2")  # beta 2
    >>> found[["loss", "gradient", "weight"]].round(4).values.tolist()
    [[0.1733, -0.2983, 0.5966]]
    """
    return pd.concat([each.frame for each in curves_of(name, link, **fixed)], ignore_index=True)


def curves_of(name: str, link: str | None = None, **fixed: Any) -> list[Curves]:
    """The curves of a loss, one for each link that it has; see `loss_curves`."""
    found: dict[str, Curves] = {}
    refusals: dict[str, list[str]] = {}
    with _one_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other people's, about batches that they did not expect
        for subject in subjects(name, link, **fixed):
            if subject.link in found:  # one layout of the batch is enough
                continue
            try:
                found[subject.link] = _curves(probe_of(subject))
            except BadInput as refusal:
                refusals.setdefault(subject.link, refusal.problems)
    if not found:
        raise BadInput([problem for problems in refusals.values() for problem in problems])
    return list(found.values())


@contextmanager
def _one_thread() -> Iterator[None]:
    """Batches are so small that threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def settings(entry: Hyperparameter) -> list[float]:
    """The values that are drawn: the range in quarters, on its scale, and the default.

    >>> settings(Hyperparameter(0.25, low=0.0, high=1.0, meaning=""))
    [0.0, 0.25, 0.5, 0.75, 1.0]
    """
    values = [between(entry, fraction) for fraction in _FRACTIONS]
    # A quarter that is nearly the default would only be a second line beside it.
    gaps = np.abs(_place(entry, values) - _place(entry, [entry.default]))
    inner = [value for value, gap in zip(values, gaps, strict=True) if gap > _CLOSE]
    return sorted({*inner, values[0], values[-1], float(entry.default)})


def _place(entry: Hyperparameter, values: Sequence[float]) -> np.ndarray:
    """Where values lie within the range, 0 to 1 on its scale."""
    low, high, at = (np.asarray(each, float) for each in (entry.low, entry.high, values))
    if entry.scale == "log":
        low, high, at = (np.log(np.maximum(each, 1e-300)) for each in (low, high, at))
    return (at - low) / max(high - low, 1e-300)


def points(rows: pd.DataFrame, column: str, at: ArrayLike, by: str = "margin") -> np.ndarray:
    """One curve, the `rows` of one target and value, read off at `at`; nan outside of it."""
    rows = rows.sort_values(by)
    return np.interp(np.asarray(at, float), rows[by], rows[column], left=np.nan, right=np.nan)


def _curves(probe: Probe) -> Curves:
    subject = probe.subject
    pieces = [
        _frame(probe, name, value, loss, gradient)
        for name, value, loss, gradient in _measured(probe)
    ]
    frame = _merged(pd.concat(pieces, ignore_index=True))
    if not (frame["gradient"].abs() > 0).any():
        raise BadInput(f"{subject.name} has no gradient under {subject.case}")
    return Curves(subject.name, subject.link, frame, subject.declared, probe)


def _measured(probe: Probe) -> Iterator[tuple[str, float, np.ndarray, np.ndarray]]:
    """Loss and gradient of all elements at every setting; the defaults are measured once."""
    subject = probe.subject
    usual = _measure(probe, {})
    if not subject.declared:
        yield "", float("nan"), *usual
    for name, entry in subject.declared.items():
        for value in settings(entry):
            if value == entry.default:
                yield name, value, *usual
                continue
            try:
                yield name, value, *_measure(probe, {name: value})
            except BadInput:
                if subject.own:
                    raise
                # a guessed range may go beyond what the constructor takes


def _measure(probe: Probe, values: Mapping[str, float]) -> tuple[np.ndarray, np.ndarray]:
    try:
        return probe.measure(values)
    except Exception as error:
        raise BadInput(
            f"{probe.subject.name} cannot be evaluated under {probe.subject.case}"
            f"{f' at {dict(values)}' if values else ''}: {type(error).__name__}: {error}"
        ) from error


def _frame(
    probe: Probe, hyperparameter: str, value: float, loss: np.ndarray, gradient: np.ndarray
) -> pd.DataFrame:
    batch, pieces = probe.batch, []
    margins = batch.margins.numpy()
    usual = _usual_gradient(batch, margins)
    for target, members in batch.groups.items():
        order = members.numpy()[np.argsort(margins[members.numpy()], kind="stable")]
        order = order[np.abs(margins[order]) <= batch.limit]
        if batch.steady:
            order = order[_thinned(margins[order], batch)]
        own = pd.DataFrame(
            {
                "target": target,
                "margin": margins[order],
                "loss": loss[order],
                "gradient": gradient[order],
                "usual": usual[order],
            }
        )
        pieces.append(own if batch.steady else _means(own, batch.limit))
    frame = pd.concat(pieces, ignore_index=True)
    frame.insert(0, "name", probe.subject.name)
    frame.insert(1, "link", probe.subject.link)
    frame.insert(2, "hyperparameter", hyperparameter)
    frame.insert(3, "value", value)
    p_t = expit(batch.scale * frame["margin"]) if batch.link != "identity" else np.nan
    frame.insert(6, "p_t", p_t)
    frame["weight"] = frame["gradient"].abs() / frame.pop("usual")
    return frame


def _thinned(margins: np.ndarray, batch: Batch) -> np.ndarray:
    """The places of enough of the ascending `margins`; all of them on a grid."""
    if len(margins) <= _POINTS:
        return np.arange(len(margins))
    at = np.linspace(-batch.limit, batch.limit, _POINTS)
    if batch.link == "identity":  # much happens at small errors
        half = np.geomspace(1e-3, batch.limit, _POINTS // 2)
        at = np.concatenate([at, -half, half])
    return np.unique(np.searchsorted(margins, at).clip(0, len(margins) - 1))


def _usual_gradient(batch: Batch, margins: np.ndarray) -> np.ndarray:
    """|dL/dx_t| of cross-entropy, or of the squared error; nan where neither is a measure."""
    if batch.link != "identity":
        return batch.scale * expit(-batch.scale * margins)
    return np.abs(margins) if ERROR in batch.groups else np.full_like(margins, np.nan)


def _means(own: pd.DataFrame, limit: float) -> pd.DataFrame:
    """Means over elements of nearly one margin."""
    place = np.floor((own["margin"] + limit) / (2 * limit) * _MEANS).clip(0, _MEANS - 1)
    return own.groupby(["target", place], sort=False).mean().reset_index("target")


def _merged(frame: pd.DataFrame) -> pd.DataFrame:
    """One curve for all targets where theirs cannot be told apart."""
    targets = frame["target"].unique()
    if len(targets) < 2 or frame["p_t"].isna().all():
        return frame
    for _, rows in frame.groupby(["hyperparameter", "value"], dropna=False):
        one, *others = (rows[rows["target"] == target] for target in targets)
        if not all(_alike(one, other) for other in others):
            return frame
    frame = frame.assign(target=ANY)
    order = ["hyperparameter", "value", "margin"]
    # Of a grid the points of all targets are the same.
    return frame.drop_duplicates(order).sort_values(order, kind="stable", ignore_index=True)


def _alike(one: pd.DataFrame, other: pd.DataFrame) -> bool:
    """Whether the curves of two targets look the same.

    Those of a batch have their points, and so their jumps, at slightly different margins.
    """
    if len(one) == len(other) and np.array_equal(one["margin"], other["margin"]):
        return _close(one, other, 1.0, 1e-3)
    low = max(one["margin"].min(), other["margin"].min())
    high = min(one["margin"].max(), other["margin"].max())
    at = np.linspace(low, high, 200)
    read = [
        pd.DataFrame({column: points(rows, column, at) for column in ("loss", "gradient")})
        for rows in (one, other)
    ]
    return _close(read[0], read[1], 0.8, 0.05)


def _varies(rows: pd.DataFrame) -> bool:
    """Whether the curves of one target differ from value to value."""
    one, *others = (own for _, own in rows.groupby("value", dropna=False))
    return not all(_close(one, other, 1.0, _VISIBLE) for other in others)


def _close(one: pd.DataFrame, other: pd.DataFrame, share: float, tolerance: float) -> bool:
    """Whether a share of the points is within a tolerance, relative to the largest value."""
    for column in ("loss", "gradient"):
        a, b = one[column].to_numpy(), other[column].to_numpy()
        size = max(np.abs(a).max(), np.abs(b).max())
        if np.quantile(np.abs(a - b), share) > tolerance * size:
            return False
    return True
