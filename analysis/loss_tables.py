"""The curves of a loss as tables of text, for a terminal."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from losslab.analysis.loss_curves import ANY, Curves, points
from losslab.analysis.reference_batches import ERROR, P_TOLD, SHIFTED, STRETCHED


class _Table(NamedTuple):
    """One table: what is shown, of which column, where, and the heads of its columns."""

    title: str
    column: str
    at: tuple[float, ...]
    heads: tuple[str, ...]
    by: str = "margin"
    only: str = ""


def curve_tables(curves: Curves) -> str:
    """Loss, gradient and weight at a few points: at the defaults, and at the ends of each range.

    A row is left out where a hyper-parameter changes nothing.

    >>> from losslab.analysis.loss_curves import curves_of
    >>> print(curve_tables(curves_of("ce", "sigmoid")[0]).splitlines()[1])
    at the defaults        4.02     2.13    0.693    0.127   0.0181
    """
    return "\n\n".join("\n".join(_lines(curves, table)) for table in _tables(curves))


def _tables(curves: Curves) -> Iterator[_Table]:
    if SHIFTED in curves.targets:
        shifts = (0.1, 0.5, 0.9, 1.5, 2.0)
        heads = tuple(f"{shift:g}" for shift in shifts)
        yield _Table("loss at a shift of", "loss", shifts, heads, only=SHIFTED)
        yield _Table("derivative by the shift", "gradient", shifts, heads, only=SHIFTED)
        widths = ("1/4", "1/2", "1", "2", "4")
        yield _Table(
            "loss at a width of", "loss", (-2.0, -1.0, 0.0, 1.0, 2.0), widths, only=STRETCHED
        )
        return
    at, where = (-4.0, -2.0, 0.0, 2.0, 4.0), "margin x_t"
    if ERROR in curves.targets:
        at, where = (0.05, 0.25, 0.5, 1.0, 2.0), "error d"
    elif curves.batch.scale != 1:
        at = (-0.5, -0.25, 0.0, 0.25, 0.5)
    heads = tuple(f"{each:g}" for each in at)
    times = f" x {curves.probe.times:,}" if curves.probe.times > 1 else ""
    loss = "change of loss" if curves.probe.whole else "loss"
    yield _Table(f"{loss}{times} at {where}", "loss", at, heads)
    yield _Table(f"gradient{times} at {where}", "gradient", at, heads)
    if ERROR in curves.targets:
        yield _Table(f"weight (d^2/2 has 1) at {where}", "weight", at, heads)
    else:
        heads = tuple(f"{p:g}" for p in P_TOLD)
        yield _Table("weight (CE has 1) at p_t", "weight", P_TOLD, heads, by="p_t")


def _lines(curves: Curves, table: _Table) -> list[str]:
    rows = list(_rows(curves, table))
    width = max(len(label) for label, _ in [(table.title, None), *rows])
    lines = [_line(table.title, table.heads, width)]
    return lines + [_line(label, [_number(each) for each in found], width) for label, found in rows]


def _rows(curves: Curves, table: _Table) -> Iterator[tuple[str, list[float]]]:
    """Label and values: the defaults of every target, then the ends of what changes it."""
    first = str(curves.frame["hyperparameter"].iloc[0])
    targets = [table.only] if table.only else curves.targets
    for name, value in _ends(curves):
        label = f"{name} = {value:.3g}" if name else "at the defaults"
        for target in targets:
            if name and target not in curves.moving[name]:
                continue
            line = curves.line(name or first, target, value)
            who = "" if target in (ANY, ERROR) or table.only else f", {target}"
            yield label + who, points(line, table.column, table.at, table.by).tolist()


def _ends(curves: Curves) -> Iterator[tuple[str, float | None]]:
    yield "", None
    for name in curves.moving:
        default = curves.declared[name].default
        values = curves.values(name)
        yield from ((name, value) for value in (values[0], values[-1]) if value != default)


def _line(label: str, cells: Sequence[str], width: int) -> str:
    return f"{label:<{width}}" + "".join(f"{cell:>9}" for cell in cells)


def _number(value: float) -> str:
    if np.isnan(value):
        return "-"
    return f"{value:.3g}" if abs(value) >= 1e-3 or value == 0 else f"{value:.1e}"
