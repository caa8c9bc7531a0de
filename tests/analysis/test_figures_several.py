"""Figures over levels and datasets: drawn from the same numbers and decisions as the text."""

import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from losslab.analysis.figures import catalogue, levels, several
from losslab.analysis.statistics import crossover, nemenyi, pairwise_wilcoxon
from losslab.analysis.tables import per_seed


@pytest.fixture
def by_ratio(study):
    """Focal is behind cross-entropy at 1 and ahead at 100; `ahead` is ahead throughout."""
    found = {}
    for position, ratio in enumerate((100, 1, 10)):
        x = np.log10(ratio)
        writer = study({"ce": 0.0, "focal": 0.03 * x - 0.02, "ahead": 0.05}, seed=position)
        writer.build(search=False)
        frames = writer.frames()
        level = {"label": "imbalance ratio", "name": str(ratio), "value": ratio}
        found[f"1:{ratio}"] = replace(frames, study={**frames.study, "level": level})
    return found


@pytest.fixture
def datasets(study, messy):
    hostile = list(messy.effects)[1]
    names = ["a_b % $x$", "b", "c <script>", "d", "e", "f", "g", "h"]
    found = {}
    for i, name in enumerate(names):
        writer = study({"ce": 0.0, "focal": 0.01 * (-1) ** i, "ldam": 0.02, hostile: 0.09}, seed=i)
        writer.build(search=False)
        found[name] = writer.frames()
    return found


def test_levels_are_put_in_order_and_drawn_as_means(by_ratio):
    assert levels.level_numbers(by_ratio) == {"1:1": 1, "1:10": 10, "1:100": 100}
    (axis,) = levels.levels_figure(by_ratio).axes
    assert (axis.get_xscale(), axis.get_xlabel()) == ("log", "imbalance ratio")
    means = [
        per_seed(by_ratio[name], "focal", "selected", "test/average_precision").mean()
        for name in ("1:1", "1:10", "1:100")
    ]
    line = axis.containers[1].lines[0]
    assert line.get_ydata() == pytest.approx(means)


def test_crossing_is_the_statistics(by_ratio):
    figure = levels.crossover_figure(by_ratio)
    assert [axis.get_title(loc="left").split()[0] for axis in figure.axes] == ["focal", "ahead"]
    table = pd.DataFrame(
        {
            name: per_seed(by_ratio[name], "focal", "selected", "test/average_precision")
            - per_seed(by_ratio[name], "ce", "selected", "test/average_precision")
            for name in ("1:1", "1:10", "1:100")
        }
    )
    expected = crossover([1, 10, 100], table)
    diamond = next(line for line in figure.axes[0].get_lines() if line.get_marker() == "D")
    assert diamond.get_xdata() == pytest.approx([expected.position])
    drawn = figure.axes[0].containers[0].lines[0].get_ydata()
    assert drawn == pytest.approx(table.mean())
    assert figure.axes[1].get_title(loc="left").endswith("no crossing in the range")
    words = f"crossing {expected.position:.3g} [{expected.low:.3g}, {expected.high:.3g}]"
    assert figure.axes[0].get_title(loc="left").endswith(words)
    caption = levels.crossover_caption(by_ratio)
    assert f"focal: {expected.position:.3g} [{expected.low:.3g}, {expected.high:.3g}]" in caption
    assert "ahead: no crossing in the range" in caption


def test_several_crossings_are_hollow_and_have_no_interval(study):
    found = {}
    for position, ahead in enumerate((0.05, -0.05, 0.05)):
        writer = study({"ce": 0.0, "focal": ahead}, seed=position)
        writer.build(search=False)
        found[str(position)] = writer.frames()
    (axis,) = levels.crossover_figure(found).axes
    ((_, crossing),) = levels.crossovers(found).values()
    hollow = [line for line in axis.get_lines() if line.get_marker() == "D"]
    assert [line.get_markerfacecolor() for line in hollow] == ["none", "none"]
    assert [line.get_xdata()[0] for line in hollow] == pytest.approx(crossing.crossings)
    assert "2 crossings: " in levels.crossover_caption(found)


def test_names_that_are_numbers_are_budgets(study):
    found = {}
    for name in ("5", "20"):
        writer = study(seeds=2)
        writer.build(search=False)
        found[name] = writer.frames()
    assert levels.level_numbers(found) == {"5": 5, "20": 20}
    assert levels.levels_figure(found).axes[0].get_xlabel() == "level"
    # levels of one dataset are no sample of datasets
    assert several.nemenyi_figure(found) is None


@pytest.mark.parametrize(
    ("draw", "test"),
    [(several.nemenyi_figure, nemenyi), (several.wilcoxon_figure, pairwise_wilcoxon)],
)
def test_the_diagram_is_drawn_from_the_decision_matrix(datasets, draw, test):
    comparison = test(several.dataset_scores(datasets))
    (axis,) = draw(datasets).axes
    bars = [line.get_xdata() for line in axis.get_lines() if line.get_linewidth() == 3]
    groups = [group for group in comparison.groups if len(group) > 1]
    assert len(bars) == len(groups) > 0
    for bar, group in zip(bars, groups, strict=True):
        ends = [comparison.ranks[group[0]], comparison.ranks[group[-1]]]
        assert bar == pytest.approx(ends, abs=0.04)
        assert not comparison.different.loc[list(group), list(group)].any(axis=None)
    feet = {
        round(line.get_xdata()[0], 6) for line in axis.get_lines() if len(line.get_xdata()) == 3
    }
    assert feet == {round(rank, 6) for rank in comparison.ranks}


def test_datasets_show_every_mean_and_bold_the_best(datasets):
    scores = several.dataset_scores(datasets)
    (axis,) = several.datasets_figure(datasets).axes
    texts = [text.get_text() for text in axis.texts]
    assert texts == [f"{value:.3f}" for value in scores.to_numpy().ravel()]
    bold = [text.get_weight() == "bold" for text in axis.texts]
    assert np.reshape(bold, scores.shape).argmax(axis=1).tolist() == [3] * len(scores)


def test_each_draws_or_says_none_without_a_warning(by_ratio, datasets, study):
    writer = study()
    writer.write("study.json", writer.study)
    one, nothing = writer.frames(), {"x": writer.frames(), "y": writer.frames()}
    first = next(iter(datasets))
    some = {first: datasets[first], "empty": one}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for mapping in (by_ratio, datasets, nothing, some, {"1": one, "2": one}, {}):
            for each in catalogue.SEVERAL_FIGURES:
                figure = each.draw(mapping)
                if figure is not None:
                    figure.draw_without_rendering()
                    assert each.caption(mapping).endswith(".")
                assert figure is None or mapping is not nothing


def test_the_class_balanced_grid_has_each_arms_error_at_its_beta(study):
    rates = {"b.9": ("class_balanced_ce", 0.1), "b.999": ("class_balanced_ce", 0.001)}
    found = {}
    for position, ratio in enumerate(("10", "100")):
        settings = {
            arm: {"config": {"loss": {"name": loss, "one_minus_beta": rate}}, "space": {}}
            for arm, (loss, rate) in rates.items()
        }
        settings |= {"ce": {"config": {"loss": {"name": "ce"}}}}
        # tuning gamma leaves no single one to be a row
        settings["f"] = {"config": {"loss": {"name": "focal"}}, "space": {"loss.gamma": {}}}
        effects = {"ce": 0.0, "b.9": 0.02, "b.999": 0.05, "f": 0.0}
        writer = study(effects, seed=position, settings=settings, seeds=3)
        writer.build(search=False)
        for arm in effects:
            for seed in range(3):
                name = f"confirm/{writer.slugs[arm]}/selected-{seed:04d}.json"
                record = writer.read(name)
                ap = record["metrics"]["test/average_precision"]
                record["metrics"]["test/accuracy"] = ap
                writer.write(name, record)
        found[ratio] = writer.frames()
    figure = next(e for e in catalogue.SEVERAL_FIGURES if e.name == "class_balanced_grid")
    axes = figure.draw(found).axes
    for axis, ratio in zip(axes, ("100", "10"), strict=True):
        means = [
            per_seed(found[ratio], arm, "selected", "test/accuracy").mean()
            for arm in ("ce", "b.9", "b.999")
        ]
        assert [text.get_text() for text in axis.texts] == [f"{100 - 100 * m:.1f}" for m in means]
        assert [t.get_text() for t in axis.get_xticklabels()] == ["0", "0.9", "0.999"]
    assert "n = 3 runs a cell" in figure.caption(found)
