"""Models by what they cost: counted by hand, and the pairs that parameters rank wrongly."""

import re
from pathlib import Path

import pandas as pd
import pytest

from losslab.analysis.cost_figures import cost_figure, model_sizes, reversals


def test_sizes_are_those_that_a_hand_counts():
    sizes = model_sizes(
        [("mlp", {"hidden": [5]}), ("cnn", {"channels": [4, 8]})], image=(2, 6, 6), outputs=3
    )
    assert list(sizes["parameters"]) == [
        72 * 5 + 5 + 5 * 3 + 3,
        (2 * 9 * 4 + 4) + (4 * 9 * 8 + 8) + 8 * 3 + 3,
    ]
    # a 3 × 3 convolution takes 9 products an output; the second has 3 × 3 places
    assert list(sizes["flops"]) == [
        2 * (72 * 5 + 5 * 3),
        2 * (36 * 4 * 2 * 9 + 9 * 8 * 4 * 9 + 8 * 3),
    ]


def test_residual_networks_have_the_published_size_and_operations():
    """ResNet-20 on CIFAR-10: 0.27 million parameters and 41 million multiplications."""
    sizes = model_sizes([("resnet", {"blocks": [3, 3, 3], "width": 16})])
    assert sizes["parameters"][0] == pytest.approx(0.27e6, rel=0.02)
    assert sizes["flops"][0] / 2 == pytest.approx(41e6, rel=0.02)


def test_reversals_are_the_pairs_that_parameters_rank_wrongly():
    sizes = pd.DataFrame({
        "model": list("abcd"), "options": [""] * 4,
        "parameters": [10, 40, 20, 40], "flops": [90, 30, 95, 200],
    })  # fmt: skip
    found = reversals(sizes)
    assert list(zip(found["smaller"], found["larger"], strict=True)) == [(0, 1), (2, 1)]
    assert found.loc[0, ["parameters", "flops"]].tolist() == [4, 3]
    axis = cost_figure(sizes).axes[0]
    marked = {tuple(xy) for line in axis.get_lines() if line.get_marker() not in ("", "None")
              for xy in line.get_xydata()}  # fmt: skip
    assert marked == set(zip(sizes["parameters"], sizes["flops"], strict=True))
    joined = [line for line in axis.get_lines() if line.get_color() == "0.7"]
    assert joined[0].get_xydata().tolist() == [[10, 90], [40, 30]]


def test_none_is_joined_where_none_is_reversed():
    sizes = pd.DataFrame({
        "model": ["a", "b"], "options": ["", ""], "parameters": [1, 2], "flops": [3, 4],
    })  # fmt: skip
    assert reversals(sizes).empty
    assert not [
        line for line in cost_figure(sizes).axes[0].get_lines() if line.get_color() == "0.7"
    ]


def test_the_numbers_of_the_page_are_those_of_the_figure():
    page = (Path(__file__).parents[2] / "docs" / "costs.md").read_text(encoding="utf-8")
    sizes = model_sizes()
    pairs = reversals(sizes)
    every = len(sizes) * (len(sizes) - 1) // 2
    assert f"Of the {every} pairs" in page.replace("\n", " ")
    assert f"takes more FLOPs in {len(pairs)}." in page.replace("\n", " ")
    small, large = pairs.loc[0, "smaller"] + 1, pairs.loc[0, "larger"] + 1
    told = f"{small} has fewer parameters than {large} and takes {pairs.loc[0, 'flops']:.0f} times"
    assert told in page.replace("\n", " ")
    cells = re.findall(r"\| `(\w+)`, `(.*?)`(?:, `(.*?)`)? \| ([\d,]+) \| ([\d,]+) ", page)
    assert len(cells) == 6
    known = {(r.model, r.options): (r.parameters, r.flops) for r in sizes.itertuples()}
    for model, *options, parameters, operations in cells:
        words = ", ".join(option.replace(":", "") for option in options if option)
        told = [int(number.replace(",", "")) for number in (parameters, operations)]
        assert list(known[model, words]) == told
