"""Models by what they cost: parameters against floating-point operations, and their reversals."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from losslab.analysis.figures.parts import markers
from losslab.analysis.style import COLUMN, line_looks, new_figure, plain, print_style

IMAGE, OUTPUTS = (3, 32, 32), 10
#: What the figure compares: registered models and their options, on one image and ten classes.
MODELS_COMPARED: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("mlp", {"hidden": [32]}),
    ("mlp", {"hidden": [128]}),
    ("mlp", {"hidden": [512]}),
    ("cnn", {"channels": [16, 32]}),
    ("cnn", {"channels": [64, 128]}),
    ("cnn", {"channels": [32, 64, 128, 256]}),
    ("cnn", {"channels": [128]}),
    ("resnet", {"blocks": [3, 3, 3], "width": 8}),
    ("resnet", {"blocks": [3, 3, 3], "width": 16}),
    ("resnet", {"blocks": [2, 2, 2], "width": 32}),
    ("resnet", {"blocks": [9], "width": 32}),
    ("resnet", {"blocks": [1, 1, 6], "width": 16}),
)


def model_sizes(
    models: Sequence[tuple[str, Mapping[str, Any]]] = MODELS_COMPARED,
    image: tuple[int, ...] = IMAGE,
    outputs: int = OUTPUTS,
) -> pd.DataFrame:
    """Parameters and FLOPs of registered models: `model, options, parameters, flops`.

    `flops` are those of one example's forward pass in evaluation mode, as
    `losslab.experiments.costs.flops` counts them: convolutions and matrix products, a
    multiplication and an addition being two. `image` is the shape of one example.

    >>> sizes = model_sizes([("mlp", {"hidden": [32]})])
    >>> int(sizes["parameters"][0]), int(sizes["flops"][0])  # 2 per weight, none for biases
    (98666, 197248)
    """
    import torch

    from losslab.experiments.costs import flops
    from losslab.experiments.models import MODELS

    rows = []
    for name, options in models:
        with torch.random.fork_rng(devices=[]):
            model = MODELS.create(name, input_shape=image, outputs=outputs, **options)
        counted = sum(p.numel() for p in model.parameters() if p.requires_grad)
        operations = flops(model, torch.zeros(1, *image))
        rows.append(
            {
                "model": name,
                "options": ", ".join(f"{k} {v}" for k, v in options.items()),
                "parameters": counted,
                "flops": int(operations),
            }
        )
    return pd.DataFrame(rows)


def reversals(sizes: pd.DataFrame) -> pd.DataFrame:
    """The pairs of which one model has fewer parameters and more FLOPs, strongest first.

    Columns `smaller, larger` (rows of `sizes`, by parameters), `parameters` (how many times more
    the larger has) and `flops` (how many times more the smaller takes).
    """
    rows = []
    for a, b in combinations(sizes.sort_values("parameters").index, 2):
        small, large = sizes.loc[a], sizes.loc[b]
        if small["parameters"] < large["parameters"] and small["flops"] > large["flops"]:
            rows.append(
                {
                    "smaller": a,
                    "larger": b,
                    "parameters": large["parameters"] / small["parameters"],
                    "flops": small["flops"] / large["flops"],
                }
            )
    found = pd.DataFrame(rows, columns=["smaller", "larger", "parameters", "flops"])
    order = (np.log(found["parameters"]) + np.log(found["flops"])).sort_values(ascending=False)
    return found.loc[order.index].reset_index(drop=True)


@print_style()
def cost_figure(sizes: pd.DataFrame) -> Figure:
    """FLOPs against parameters, a point a model, numbered by its row and named in the legend.

    The dotted line has 2 FLOPs a parameter, which is what a layer that uses each weight once takes;
    convolutions use theirs at every place. The grey line joins the strongest reversal.
    """
    figure, (axis,) = new_figure(COLUMN * 1.45, 3.4)
    low, high = sizes["parameters"].min() / 1.6, sizes["parameters"].max() * 1.6
    axis.plot([low, high], [2 * low, 2 * high], ":", color="0.5", linewidth=1)
    pairs = reversals(sizes)
    if len(pairs):
        ends = sizes.loc[pairs.iloc[0][["smaller", "larger"]].astype(int)]
        axis.plot(ends["parameters"], ends["flops"], "-", color="0.7", linewidth=1, zorder=1)
    families = list(dict.fromkeys(sizes["model"]))
    handles = []
    for family, marker, look in zip(
        families, markers(len(families)), line_looks(len(families)), strict=True
    ):
        own = sizes[sizes["model"] == family]
        axis.plot(own["parameters"], own["flops"], marker, color=look["color"], ms=10)
        for place, row in own.iterrows():
            axis.text(
                row["parameters"], row["flops"], str(int(str(place)) + 1), fontsize=6,
                ha="center", va="center_baseline", color="white", weight="bold",
            )  # fmt: skip
            words = plain(f"{int(str(place)) + 1} {family} {row['options']}", 60)
            handles.append(
                Line2D([], [], color=look["color"], marker=marker, ls="none", ms=4, label=words)
            )
    handles.append(Line2D([], [], color="0.5", ls=":", label="2 FLOPs a parameter"))
    axis.set(xscale="log", yscale="log", xlim=(low, high))
    axis.minorticks_off()
    axis.set(xlabel="parameters", ylabel="FLOPs of a forward pass")
    figure.legend(handles=handles, loc="outside right center", handlelength=1.2)
    return figure
