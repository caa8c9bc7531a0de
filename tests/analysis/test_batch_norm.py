"""The figure of batch norm's drift, and a pretrained network inside one that trains."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from losslab.analysis import figures
from losslab.analysis.figures.batch_norm import batch_norm_drift_caption
from losslab.analysis.pretrained_drift import WAYS, pretrained_inside, summary


@pytest.fixture(scope="module")
def inside():
    threads, generator = torch.get_num_threads(), torch.get_rng_state()
    found = pretrained_inside(seeds=1, epochs=2)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), generator)
    return found.set_index(["way", "epoch"])


def test_what_moves_in_each_way(inside):
    """Known without running it: nothing of the first two holds the statistics still."""
    assert (inside.xs(0, level="epoch")[["drift", "moved"]] == 0).all(axis=None)
    last = inside.xs(2, level="epoch")
    assert set(last.index[last["moved"] > 0]) == {"left in training mode"}
    held = {"eval() after every train()", "frozen"}
    assert set(last.index[last["drift"] == 0]) == held
    assert set(last.index[last["drift"] > 0.01]) == set(WAYS) - held


def test_ways_that_do_the_same_give_the_same_numbers(inside):
    """An eval() that train() undoes is none; a frozen norm is one in evaluation mode."""
    columns = ["drift", "moved", "old", "new"]
    pairs = [("requires_grad=False", "eval() once"), ("eval() after every train()", "frozen")]
    for one, other in pairs:
        np.testing.assert_array_equal(inside.loc[one][columns], inside.loc[other][columns])


def test_the_old_task_is_done_as_before_where_nothing_moves(inside):
    old = inside["old"].unstack("epoch")
    assert old[0].nunique() == 1
    assert old.loc["frozen"].nunique() == 1
    assert old[0].iloc[0] > 0.8  # it has been learnt


def test_drift_is_drawn_from_zero_by_epoch(kept_study):
    writer = kept_study({"ce": 0.0, "plain": 0.1}, seeds=3)
    writer.build(search=False)
    frames = writer.frames()
    assert figures.batch_norm_drift_figure(frames) is None
    epochs = frames.epochs.copy()
    normed, run = epochs["arm"] == "ce", epochs.groupby("key").ngroup() % 3 - 1
    epochs["record/batch_norm/all"] = (epochs["epoch"] + 0.1 * run).where(normed)
    epochs["initial/batch_norm/all"] = (0.0 * run).where(normed & (epochs["epoch"] == 1))
    frames = replace(frames, epochs=epochs)
    (axis,) = figures.batch_norm_drift_figure(frames).axes
    (line,) = axis.lines
    assert line.get_xdata().tolist() == list(range(7))
    assert line.get_ydata() == pytest.approx(range(7))
    # 95 % t interval of three runs at -0.1, 0 and 0.1 around the mean: 4.303 * 0.1 / sqrt(3)
    band = axis.collections[0].get_paths()[0].vertices
    assert band[band[:, 0] == 6][:, 1].max() == pytest.approx(6 + 4.3027 * 0.1 / 3**0.5, rel=1e-4)
    caption = batch_norm_drift_caption(frames)
    assert "n = 3 runs an arm" in caption
    assert caption.endswith("Arms without running statistics: plain.")


@pytest.mark.slow
def test_the_page_has_the_numbers_of_a_run():
    page = (Path(__file__).parents[2] / "docs" / "batch_norm.md").read_text()
    told = {
        cells[1]: cells[2:6]
        for line in page.splitlines()
        if len(cells := [cell.strip() for cell in line.split("|")]) == 7
    }
    for _, row in summary(pretrained_inside(10)).iterrows():
        for cell, wanted in zip(told[row["way"]], row[1:], strict=True):
            numbers = [[float(part) for part in each.split(" ± ")] for each in (cell, wanted)
                       if each != "—"]  # fmt: skip
            if numbers:
                assert numbers[0][0] == pytest.approx(numbers[1][0], abs=numbers[1][-1] / 2)
