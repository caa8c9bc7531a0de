"""Graphs and their gradients: what docs/two_networks.md and docs/graphs.md say, tried out."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from losslab.analysis import graph_life, two_networks
from losslab.experiments.graph_memory import SavedTensors, graph_nodes

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def ways():
    return two_networks.comparison().set_index("way")


@pytest.fixture
def game():
    return two_networks.Game.made(batch=16, width=8)


# Two networks, one graph ------------------------------------------------------------------------


def test_a_second_backward_says_that_the_graph_is_freed(game):
    with pytest.raises(RuntimeError) as error:
        two_networks.two_backwards(game)
    assert _quoted("two_networks.md", str(error.value))
    assert str(error.value).startswith("Trying to backward through the graph a second time (or")


def test_a_step_between_two_backwards_is_noticed(game):
    with pytest.raises(RuntimeError) as error:
        two_networks.step_between(game)
    first, *_, last = re.split(r"\[torch.*?; expected version \d instead\.", str(error.value))
    assert _quoted("two_networks.md", first.strip(" :"))
    assert "modified by an inplace operation" in first
    assert "Hint: enable anomaly detection" in last


def test_which_remedies_give_each_network_its_own_gradient(ways):
    own = ways.index[(ways["d_gradient"] == "own") & (ways["g_gradient"] == "own")]
    assert set(own) == {
        "retain_graph and inputs", "detach and inputs", "no_grad, generate twice",
        "joint, D frozen for G",
    }  # fmt: skip
    both = ways.index[(ways["d_gradient"] == "both") & (ways["g_gradient"] == "both")]
    assert set(both) == {"retain_graph", "joint"}
    assert ways.loc["detach", ["d_gradient", "g_gradient"]].tolist() == ["both", "own"]


def test_detaching_leaves_the_generators_loss_in_the_discriminators_gradients(game):
    """By hand: what D holds is the sum of two gradients that were computed apart."""
    two_networks.detached(game)
    d, g = game.model.discriminator, game.model.generator
    real, noise = game.real, game.noise
    logistic = nn.BCEWithLogitsLoss()
    ones, zeros = torch.ones(16, 1).double(), torch.zeros(16, 1).double()
    of_d = torch.autograd.grad(logistic(d(real), ones) + logistic(d(g(noise)), zeros), game.d)
    of_g = torch.autograd.grad(logistic(d(g(noise)), ones), game.d)
    for parameter, one, other in zip(game.d, of_d, of_g, strict=True):
        torch.testing.assert_close(parameter.grad, one + other)
        assert not torch.allclose(parameter.grad, one)


def test_peak_memory_is_the_sum_of_what_the_layers_keep(ways):
    """A pass of either network keeps the results of its two ReLUs, a linear layer its input.

    And every softplus keeps its argument, a score or the negative of one. In float64.
    """
    number = 8 * 256 / 1e3  # kilobytes of one number for every example
    hidden, samples, score = 2 * 128 * number, 2 * number, number
    expected = {
        "retain_graph": 3 * hidden + samples + 3 * score,
        "joint": 3 * hidden + samples + 3 * score,
        "detach": 3 * hidden + samples + 2 * score,  # the third comes when two are gone
        "no_grad, generate twice": 2 * hidden + samples + 2 * score,
        "joint, D frozen for G": 4 * hidden + samples + 3 * score,
    }
    for way, kilobytes in expected.items():
        assert ways.loc[way, "kilobytes"] == pytest.approx(kilobytes, abs=0.1), way


def test_the_pages_table_is_what_runs(ways):
    told = _rows("two_networks.md", "| way |")
    for way, row in ways.dropna(subset="kilobytes").iterrows():
        cells = [row["d_gradient"], row["g_gradient"], f"{row['kilobytes']}"]
        assert told.pop(str(way))[:3] == cells
    assert not told
    timed = two_networks.comparison(batch=4, width=4, repeats=2)
    assert timed["milliseconds"].notna().sum() == len(two_networks.WAYS) - 2


# The life of a graph ----------------------------------------------------------------------------


def test_saved_bytes_are_those_of_the_activations():
    left = graph_life.lifetimes().set_index("after")["kilobytes"]
    # tanh keeps its result (64, 32), the square its argument (64, 1), in float32
    one = 4 * (64 * 32 + 64) / 1e3
    assert left["forward"] == left["backward, retain_graph"] == pytest.approx(one)
    assert left["10 × `total += loss`"] == pytest.approx(10 * one)
    assert left["backward, create_graph, then `del loss`"] > one
    gone = left.index[left == 0]
    assert {"backward", "forward, then `del loss`", "10 × `total += loss.item()`"} <= set(gone)
    assert len(gone) == len(left) - 4


def test_a_shared_storage_counts_once_and_a_broken_graph_no_more():
    x = torch.ones(100, requires_grad=True)
    with SavedTensors() as saved:
        y = x.exp()
        loss = (y * y).sum() + y.square().sum()  # y is kept four times
    assert saved.bytes == saved.peak == 400
    del loss
    assert saved.bytes == 400  # for y's own backward
    del y
    assert (saved.bytes, saved.peak) == (0, 400)


def test_nodes_are_freed_with_the_last_tensor_that_holds_them():
    import weakref

    x = torch.ones(3, requires_grad=True)
    middle = x * 2
    alive = weakref.ref(middle)
    loss = middle.exp().sum()
    assert graph_nodes(loss) == 4
    node = loss.grad_fn.next_functions[0][0]
    del middle
    assert alive() is None  # the tensor goes at once: exp keeps its result, not its argument
    assert node.name() == "ExpBackward0"
    loss.backward()
    assert graph_nodes(loss) == 4  # nodes stay, what they kept is gone
    with pytest.raises(RuntimeError, match="they have already been freed"):
        _ = node._saved_result


def test_the_pages_table_of_lifetimes_is_what_runs():
    told = _rows("graphs.md", "| after |")
    for row in graph_life.lifetimes().itertuples():
        assert told.pop(row.after) == [f"{row.kilobytes:.1f}", f"{row.nodes}"]
    assert not told


def test_the_pages_table_of_doors_is_what_runs():
    told = _rows("graphs.md", "| question |")
    for row in graph_life.doors().itertuples():
        assert told.pop(row.question) == [row.backward, row.grad]
    assert not told


def test_gradients_of_both_doors_are_equal_and_only_backward_accumulates():
    network = nn.Linear(4, 1)
    batch = torch.randn(8, 4)
    given = torch.autograd.grad(network(batch).square().mean(), list(network.parameters()))
    assert all(p.grad is None for p in network.parameters())
    for times in (1, 2):
        network(batch).square().mean().backward()
        for parameter, gradient in zip(network.parameters(), given, strict=True):
            torch.testing.assert_close(parameter.grad, times * gradient)


@pytest.fixture
def each_warning():
    """torch gives this one once a process otherwise."""
    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    yield
    torch.set_warn_always(before)


@pytest.mark.usefixtures("each_warning")
def test_create_graph_leaves_a_graph_behind_through_one_door_only():
    w = torch.ones(50, requires_grad=True)
    with SavedTensors() as saved:
        _ = torch.autograd.grad(w.exp().sum(), w, create_graph=True)
        assert saved.bytes >= 200  # w.exp(), which its own derivative is made of
        del _
        assert saved.bytes == 0
        with pytest.warns(UserWarning, match="create a reference cycle"):
            w.exp().sum().backward(create_graph=True)
        assert saved.bytes >= 200
        w.grad = None
        assert saved.bytes == 0


def test_an_optimiser_leaves_alone_what_has_no_gradient_and_moves_what_has_zero():
    for gradient, moves in ((None, False), (torch.zeros(1), True)):
        weight = nn.Parameter(torch.ones(1))
        optimizer = torch.optim.AdamW([weight], lr=0.1, weight_decay=0.5)
        weight.grad = gradient
        optimizer.step()
        assert (weight.item() != 1) == moves


def _rows(page, head):
    """The rows of a page's table below the line that starts with `head`, by their first cell."""
    lines = iter((DOCS / page).read_text().splitlines())
    assert any(line.startswith(head) for line in lines), head
    next(lines)
    found = {}
    for line in lines:
        if not line.startswith("|"):
            break
        first, *rest = (cell.strip() for cell in line.strip("|").split(" | "))
        found[first] = rest
    return found


def _quoted(page, message):
    """Whether the page quotes the message, however it is broken into lines."""
    lines = [line.removeprefix("> ") for line in (DOCS / page).read_text().splitlines()]
    return " ".join(message.split()) in " ".join(" ".join(lines).split())
