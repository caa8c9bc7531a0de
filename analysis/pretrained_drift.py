"""A pretrained network inside one that trains: what moves in it, in five ways of holding it still.

A small convolutional network with batch norm learns ten digits that are equally frequent. Then its
layers before the last one, the trunk, feed a new head, which learns the same digits from a
long-tailed training split. Whoever else uses the trunk expects it to stay what it was.
`pretrained_inside` says in each of `WAYS` how far parameters and running statistics of the trunk
have moved, and how well the old network, with its old last layer, still does its old task.
"""

import copy
from collections.abc import Callable

import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from sklearn.metrics import balanced_accuracy_score
from torch import nn
from torch.nn import functional as F

from losslab.analysis.figures.parts import legend_below, t_band
from losslab.analysis.statistics import mean_interval
from losslab.analysis.style import PAGE, label_panels, line_looks, new_figure, print_style
from losslab.datasets.base import Split
from losslab.datasets.digits import build as digits
from losslab.experiments.models.batch_norm import apply as batch_norm
from losslab.experiments.models.batch_norm import running_statistics
from losslab.experiments.models.cnn import build as cnn
from losslab.experiments.recorders.batch_norm import drift
from losslab.randomness import generator, seed_integer

CLASSES, BATCH, RATE = 10, 16, 3e-3
EPOCHS = {"old": 8, "new": 4}

Before = Callable[[nn.Module], None]


def left(trunk: nn.Module) -> None:
    """Nothing is done: the trunk trains too."""


def without_gradients(trunk: nn.Module) -> None:
    """`requires_grad_(False)` for all parameters of the trunk."""
    trunk.requires_grad_(False)


def evaluating(trunk: nn.Module) -> None:
    """Without gradients, and in evaluation mode."""
    without_gradients(trunk)
    trunk.eval()


def frozen(trunk: nn.Module) -> None:
    """Without gradients, and every batch norm replaced by a frozen one."""
    without_gradients(trunk)
    batch_norm(trunk, mode="frozen")


#: Each way: what is done once before training, and what after every `joint.train()`.
WAYS: dict[str, tuple[Before, Before]] = {
    "left in training mode": (left, left),
    "requires_grad=False": (without_gradients, left),
    "eval() once": (evaluating, left),
    "eval() after every train()": (evaluating, evaluating),
    "frozen": (frozen, left),
}


def pretrained_inside(
    seeds: int = 5, epochs: int = EPOCHS["new"], imbalance_factor: float = 20.0
) -> pd.DataFrame:
    """One row for each seed, each of `WAYS` and each epoch of the new task, 0 being before it.

    `imbalance_factor` is that of the new task's training split, see the dataset `digits`.

    Columns: `way`, `seed`, `epoch`; `drift`, how far the trunk's running statistics are from those
    of the pretrained network, see `recorders.batch_norm.BatchNormDrift`; `moved`, the distance of
    the trunk's parameters from the pretrained ones, by their norm; `old` and `new`, balanced
    accuracy on test of the old network and of the new one. One thread; the same numbers every time.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return pd.DataFrame(
            row
            for seed in range(seeds)
            for pretrained in [_pretrained(seed)]
            for way in WAYS
            for row in _course(way, seed, epochs, imbalance_factor, *copy.deepcopy(pretrained))
        )
    finally:
        torch.set_num_threads(threads)


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """After the last epoch of `pretrained_inside`, by way: mean ± half of the 95 % t interval.

    Over seeds. The first row is the pretrained network, before there was a new one.
    """
    last = table[table["epoch"] == table["epoch"].max()]
    before = table[(table["epoch"] == 0) & (table["way"] == table["way"].iloc[0])]
    parts = [before.assign(way="before"), last]
    rows = []
    for way, own in pd.concat(parts).groupby("way", sort=False):
        cells = {name: _cell(own[name]) for name in ("moved", "drift", "old", "new")}
        rows.append({"way": way, **cells, **({"new": "—"} if way == "before" else {})})
    return pd.DataFrame(rows)


@print_style()
def pretrained_figure(table: pd.DataFrame) -> Figure:
    """Drift of the trunk's statistics, and the old network's accuracy, by epoch of the new task.

    `table` is that of `pretrained_inside`. Mean and 95 % t band over seeds; ways that give the
    same numbers (see `WAYS`) are one line.
    """
    figure, axes = new_figure(PAGE, 2.9, 1, 2)
    lines = {
        "left in training mode": "left in training mode",
        "requires_grad=False": "requires_grad=False, or eval() once",
        "frozen": "frozen, or eval() after every train()",
    }
    looks, handles = line_looks(len(lines)), []
    for (way, words), look in zip(lines.items(), looks, strict=True):
        own = table[table["way"] == way]
        for axis, name in zip(axes, ("drift", "old"), strict=True):
            curve = own.pivot_table(index="seed", columns="epoch", values=name)
            mean, low, high = t_band(curve.to_numpy())
            axis.plot(curve.columns, mean, **look)
            band = {"color": look["color"], "alpha": 0.15, "linewidth": 0}
            axis.fill_between(curve.columns, low, high, **band)
        handles.append(Line2D([], [], label=words, **look))
    for axis, words in zip(axes, ("drift of the statistics", "balanced accuracy"), strict=True):
        axis.set(xlabel="epoch of the new task", ylabel=words)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    label_panels(axes, ["running statistics of the trunk", "the old network on its old task"])
    legend_below(figure, handles, columns=3)
    return figure


def _cell(values: pd.Series) -> str:
    if (values == 0).all():
        return "0"
    estimate = mean_interval(values)
    return f"{estimate.mean:.3f} ± {estimate.half_width:.3f}"


def _course(
    way: str, seed: int, epochs: int, factor: float, trunk: nn.Module, old_head: nn.Linear
) -> list[dict[str, float | str]]:
    """Every row of one way and seed."""
    before = copy.deepcopy(trunk)
    once, always = WAYS[way]
    once(trunk)
    joint = nn.Sequential(trunk, _seeded(seed, lambda: nn.Linear(old_head.in_features, CLASSES)))
    train, test = _splits(seed, factor)
    old = nn.Sequential(trunk, old_head)
    rows: list[dict[str, float | str]] = []

    def note(epoch: int) -> None:
        found = drift(running_statistics(trunk), running_statistics(before))
        place: dict[str, float | str] = {"way": way, "seed": seed, "epoch": epoch}
        moved = {"drift": found["all"], "moved": _moved(trunk, before)}
        rows.append({**place, **moved, "old": _score(old, test), "new": _score(joint, test)})

    note(0)
    _train(joint, train, epochs, seed, always=lambda: always(trunk), after=note)
    return rows


def _pretrained(seed: int) -> tuple[nn.Module, nn.Linear]:
    """A network trained on equally frequent digits: its trunk, and its last layer."""
    train, _ = _splits(seed, 1.0)
    model = _seeded(seed, lambda: batch_norm(cnn((1, 8, 8), CLASSES)))
    _train(model, train, EPOCHS["old"], seed)
    assert isinstance(model, nn.Sequential)
    last = model[-1]
    assert isinstance(last, nn.Linear)
    return model[:-1], last


def _splits(seed: int, factor: float) -> tuple[Split, Split]:
    data = digits(0, imbalance_factor=factor, as_images=True)
    return data.split(seed)[0], data.test(seed)


def _train(
    model: nn.Module,
    split: Split,
    epochs: int,
    seed: int,
    always: Callable[[], None] = lambda: None,
    after: Callable[[int], None] = lambda epoch: None,
) -> None:
    """Cross-entropy with AdamW; `always` is called after every `train()`, `after` every epoch."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE)
    features, targets = torch.from_numpy(split.features), torch.from_numpy(split.targets)
    for epoch in range(epochs):
        model.train()
        always()
        order = generator(0, "pretrained drift", seed, epoch).permutation(len(targets))
        for batch in torch.from_numpy(order).split(BATCH):
            if len(batch) == 1:  # batch norm needs two
                continue
            optimizer.zero_grad()
            F.cross_entropy(model(features[batch]), targets[batch]).backward()
            optimizer.step()
        after(epoch + 1)


def _score(model: nn.Module, split: Split) -> float:
    """Balanced accuracy in evaluation mode; modes are put back."""
    modes = [module.training for module in model.modules()]
    model.eval()
    with torch.no_grad():
        found = model(torch.from_numpy(split.features)).argmax(1).numpy()
    for module, mode in zip(model.modules(), modes, strict=True):
        module.training = mode
    return float(balanced_accuracy_score(split.targets, found))


def _moved(trunk: nn.Module, before: nn.Module) -> float:
    """Distance of what can train in `before` to the same tensors now, by its norm."""
    now = trunk.state_dict()
    pairs = [(now[name].flatten(), old.flatten()) for name, old in before.named_parameters()]
    new, old = (torch.cat(each).detach() for each in zip(*pairs, strict=True))
    return float((new - old).norm() / old.norm())


def _seeded(seed: int, make: Callable[[], nn.Module]) -> nn.Module:
    """A module with initial weights from `seed`; torch's generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed_integer(0, "pretrained drift", seed))
        return make()
