"""What is drawn, and that it can be read."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from scipy.special import expit
from torch import nn

from losslab.analysis import class_balanced_figures, gallery, ghm_figures
from losslab.analysis.loss_curves import curves_of
from losslab.analysis.loss_figures import loss_figure
from losslab.analysis.loss_rows import MOST_ROWS, chosen_rows
from losslab.errors import BadInput
from losslab.losses import LOSSES


def _panels(figure):
    axes = figure.axes
    return [axes[start : start + 3] for start in range(0, len(axes), 3)]


def _line(axis, **look):
    return [
        line for line in axis.get_lines()
        if all(getattr(line, f"get_{name}")() == value for name, value in look.items())
    ]  # fmt: skip


def test_rows_and_lines_of_focal():
    (curves,) = curves_of("focal", "sigmoid")
    panels = _panels(loss_figure(curves))
    labels = [row[0].get_ylabel() for row in panels]
    assert labels == ["gamma\npositive", "gamma\nnegative", "alpha\npositive", "alpha\nnegative"]
    for row, (name, target) in zip(panels, [label.split("\n") for label in labels], strict=True):
        for axis, x, y in zip(
            row, ("margin", "margin", "p_t"), ("loss", "gradient", "weight"), strict=True
        ):
            usual, *lines = axis.get_lines()
            assert len(lines) == 5
            (default,) = _line(axis, color="black")
            rows = curves.line(name, target)
            np.testing.assert_array_equal(default.get_xdata(), rows[x])
            np.testing.assert_array_equal(default.get_ydata(), rows[y])
            assert usual.get_linestyle() != "-"
        m, loss = row[0].get_lines()[0].get_data()
        np.testing.assert_allclose(loss, np.logaddexp(0, -m))
        m, gradient = row[1].get_lines()[0].get_data()
        np.testing.assert_allclose(gradient, -expit(-m))
        assert set(row[2].get_lines()[0].get_ydata()) == {1.0}
        assert [axis.get_xlim() for axis in row] == [(-6, 6), (-6, 6), (0, 1)]
    # the ranges of positives and negatives are the same
    assert panels[0][0].get_ylim() == panels[1][0].get_ylim()
    legend = panels[0][2].get_legend()
    assert legend.get_title().get_text() == "gamma"
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts == ["0", "1.25", "2 (default)", "3.75", "5", "cross-entropy"]
    assert panels[1][2].get_legend() is None


def test_lines_go_from_light_to_dark():
    (curves,) = curves_of("gce", "sigmoid")
    (row,) = _panels(loss_figure(curves))
    dark = [
        sum(line.get_color()) for line in row[0].get_lines() if isinstance(line.get_color(), tuple)
    ]
    assert len(dark) == 4
    assert dark == sorted(dark, reverse=True)


def test_a_long_page_draws_every_hyperparameter_at_least_once():
    (curves,) = curves_of("distribution_balanced")
    rows, left_out = chosen_rows(curves)
    assert len(rows) == MOST_ROWS
    assert {row.hyperparameter for row in rows} == set(curves.declared)
    figure = loss_figure(curves)
    told = figure.texts[0].get_text().replace("\n", " ")
    assert all(f"{row.hyperparameter} ({row.target})" in told for row in left_out)


def test_what_has_no_effect_is_told_and_not_drawn():
    (curves,) = curves_of("ghm_c", "sigmoid")
    figure = loss_figure(curves)
    assert "No visible effect here: momentum." in figure.texts[0].get_text().replace("\n", " ")
    (row,) = _panels(figure)
    assert [len(axis.get_lines()) for axis in row] == [2, 2, 2]  # the default and cross-entropy
    assert row[2].get_yscale() == "log"


def test_box_and_regression_losses_have_axes_of_their_own():
    (row,) = _panels(loss_figure(curves_of("giou")[0]))
    assert [axis.get_xlabel() for axis in row] == [
        "shift of a unit box", "shift of a unit box", "width of a concentric box",
    ]  # fmt: skip
    (row,) = _panels(loss_figure(curves_of("smooth_l1")[0]))
    assert row[0].get_xlim() == (-3, 3)
    assert (row[2].get_xscale(), row[2].get_yscale()) == ("log", "log")
    d, squared = row[0].get_lines()[0].get_data()
    np.testing.assert_allclose(squared, d * d / 2)


@pytest.mark.parametrize(
    ("name", "link"),
    [("focal", "sigmoid"), ("random_sampling", "sigmoid"), ("logit_adjustment", "softmax"),
     ("smooth_l1", "identity"), ("ciou", "identity")],
)  # fmt: skip
def test_nothing_is_clipped_or_overlaps(name, link):
    figure = loss_figure(curves_of(name, link)[0])
    _assert_readable(figure)


def _assert_readable(figure):
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer, whole = canvas.get_renderer(), figure.bbox
    beside, inside = [], []
    for row in _panels(figure):
        for axis in row:
            inside.append(axis.get_window_extent(renderer))
            beside += [axis.title, axis._left_title, axis.xaxis.label, axis.yaxis.label]
            beside += _tick_labels(axis, renderer)
            beside += axis.xaxis.get_ticklabels() if axis.xaxis.label.get_text() else []
            beside += [axis.get_legend()] if axis.get_legend() else []
    boxes = [each.get_window_extent(renderer) for each in beside
             if not hasattr(each, "get_text") or each.get_text()]  # fmt: skip
    boxes.append(figure.texts[0].get_window_extent(renderer))
    for box in boxes:
        assert box.x0 >= -1, box
        assert box.y0 >= -1, box
        assert box.x1 <= whole.x1 + 1, box
        assert box.y1 <= whole.y1 + 1, box
    legends = [a.get_legend().get_window_extent(renderer) for a in figure.axes if a.get_legend()]
    titles = [row._left_title.get_window_extent(renderer) for row in figure.axes[:3]]
    for one in legends:
        assert not any(_shared(one, panel) for panel in inside)
        assert not any(_shared(one, title) for title in titles)
        assert sum(_shared(one, other) for other in legends) == 1  # itself
    for title, following in pairwise(titles):
        assert title.x1 < following.x0
    assert figure.texts[0].get_window_extent(renderer).y0 > max(title.y1 for title in titles)


def _tick_labels(axis, renderer):
    """Those of the vertical axis that are drawn; they stay clear of the panel at the left."""
    panel, place = axis.get_window_extent(renderer), list(axis.figure.axes).index(axis)
    labels = [
        label for label in axis.yaxis.get_ticklabels()
        if panel.y0 - 1 <= axis.transData.transform((0, label.get_position()[1]))[1] <= panel.y1 + 1
    ]  # fmt: skip
    if place % 3:
        left = axis.figure.axes[place - 1].get_window_extent(renderer).x1
        assert all(label.get_window_extent(renderer).x0 > left for label in labels)
    return labels


def _shared(one, other):
    wide = min(one.x1, other.x1) - max(one.x0, other.x0)
    high = min(one.y1, other.y1) - max(one.y0, other.y0)
    return wide > 2 and high > 2


# The papers' figures ----------------------------------------------------------------------------


def test_harmonised_bins_contribute_alike():
    rng = np.random.default_rng(0)
    targets = (rng.random(5000) < 0.1).astype(int)
    logits = rng.normal(-3 + 4 * targets, 2)
    norms = ghm_figures.classification_norms(logits, targets)
    g = np.abs(expit(logits) - targets)
    place = np.minimum((g * 30).astype(int), 29)
    counts = np.bincount(place, minlength=30)
    np.testing.assert_allclose(norms["positive"] + norms["negative"], counts / 5000)
    mean = np.bincount(place, g, minlength=30) / counts
    np.testing.assert_allclose(norms["CE"], mean)
    np.testing.assert_allclose(norms["CE total"], mean * counts / 5000)
    # beta is 5000 / (30 counts): every bin has the same weight, whatever it holds
    np.testing.assert_allclose(norms["GHM-C total"], mean / 30)
    p, c = 1 - g, -np.log1p(-g)
    focal = np.bincount(place, g**2 * (g + 2 * p * c), minlength=30) / counts
    np.testing.assert_allclose(norms["FL, γ = 2"], focal, rtol=1e-6)


def test_gradient_norms_of_errors():
    d = np.concatenate([np.full(90, 0.001), [0.02] * 9, [3.0]])
    norms = ghm_figures.regression_norms(d)
    np.testing.assert_allclose(norms["all"], [0.9, 0, 0, 0, 0, 0, 0, 0.09, 0, 0.01])
    np.testing.assert_allclose(norms["ASL1, μ = 0.02"].iloc[7], np.sqrt(0.5))
    np.testing.assert_allclose(norms["SL1, β = 1/9"].iloc[[0, 7, 9]], [0.009, 0.18, 1])
    np.testing.assert_allclose(norms["GHM-R total"].iloc[9], 3 / np.hypot(3, 0.02) / 10)


def test_gradient_norms_need_examples():
    with pytest.raises(BadInput, match="no examples"):
        ghm_figures.classification_norms(np.array([1.0]), np.array([-1]))
    with pytest.raises(BadInput, match="no errors"):
        ghm_figures.regression_norms(np.array([]))


def test_the_told_batch_looks_like_a_converged_detector():
    norms = ghm_figures.classification_norms()
    examples = norms["positive"] + norms["negative"]
    assert examples.iloc[0] > 0.5  # most are easy
    assert examples.iloc[-1] > 3 * examples.iloc[20]  # and some are outliers
    assert examples.sum() == pytest.approx(1)


def test_class_balanced_terms_and_weights():
    terms = class_balanced_figures.effective_numbers([1, 10, 5000])
    for row in terms.itertuples():
        assert row.effective == pytest.approx(sum(row.beta**k for k in range(int(row.n))))
    weights = class_balanced_figures.class_weights()
    for beta, rows in weights.groupby("beta"):
        assert rows["weight"].mean() == pytest.approx(1)
        effective = (1 - beta ** rows["n"]) / (1 - beta)
        ratio = rows["weight"] * effective
        np.testing.assert_allclose(ratio, ratio.iloc[0])
    figure = class_balanced_figures.class_balanced_figure()
    limits = [line.get_ydata().max() for line in figure.axes[2].get_lines()[:4]]
    np.testing.assert_allclose(limits, [10, 100, 1000, 1e4], rtol=1e-3)


# The gallery ------------------------------------------------------------------------------------


class NeedsAnArgument(nn.Module):
    """Takes a temperature."""

    def __init__(self, temperature):
        super().__init__()


def test_a_gallery_goes_on_after_a_loss_that_cannot_be_drawn(tmp_path):
    broken = f"{__name__}:NeedsAnArgument"
    found = list(gallery.write_gallery(tmp_path, ["iou", broken, "giou", "iou"]))
    assert [each.subject for each in found] == ["iou", broken, "giou"]
    names = [{path.name for path in each.paths} for each in found]
    assert names[0] == {"iou.md", "iou.pdf", "iou.png"}
    assert names[1] == {f"{__name__}.NeedsAnArgument.md"}
    assert names[2] == {"giou.md", "giou.pdf", "giou.png"}
    assert "missing 1 required positional argument: 'temperature'" in found[1].trouble
    assert "\n" not in found[1].trouble
    assert [each.trouble for each in (found[0], found[2])] == ["", ""]


def test_names_are_checked_before_anything_is_written(tmp_path):
    with pytest.raises(BadInput, match=r"(?s)focl.*did you mean 'focal'.*nothing\.here"):
        list(gallery.write_gallery(tmp_path / "out", ["ce", "focl", "nothing.here:Loss"]))
    assert not (tmp_path / "out").exists()


def test_the_same_loss_gives_the_same_bytes(tmp_path):
    for place in ("a", "b"):
        list(gallery.write_gallery(tmp_path / place, ["diou"]))
    for file in (tmp_path / "a" / "losses").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / "losses" / file.name).read_bytes()


def test_the_papers_figures_have_their_panels():
    norms = ghm_figures.classification_norms(), ghm_figures.regression_norms()
    for figure, names in (
        (ghm_figures.classification_figure(norms[0], "a model"), ghm_figures.CLASSIFICATION),
        (ghm_figures.regression_figure(norms[1]), ghm_figures.REGRESSION),
    ):
        assert [axis.get_yscale() for axis in figure.axes] == ["log"] * 3
        texts = [text.get_text() for text in figure.axes[1].get_legend().get_texts()]
        assert texts == list(names)


@pytest.mark.slow
def test_the_whole_gallery(tmp_path):
    found = list(gallery.write_gallery(tmp_path))
    assert [each.trouble for each in found] == [""] * len(found)
    names = {path.relative_to(tmp_path).as_posix() for each in found for path in each.paths}
    assert len(names) == sum(len(each.paths) for each in found)
    assert {"figure_1_focal_loss.pdf", "ghm_gradient_norms.png", "class_balanced_weights.pdf",
            "ghm_regression_norms.pdf", "model_costs.csv"} <= names  # fmt: skip
    assert {
        f"losses/{name}.{kind}" for name in LOSSES.names() for kind in ("md", "pdf", "png")
    } <= names


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES.names())
def test_every_registered_loss_is_drawn_and_readable(name):
    before = torch.get_rng_state()
    for curves in curves_of(name):
        finite = curves.frame[["loss", "gradient"]].apply(np.isfinite).all().all()
        assert finite
        assert not curves.moving or len(curves.active()) <= len(curves.declared)
        _assert_readable(loss_figure(curves))
    assert torch.get_rng_state().equal(before)
