"""Two networks on one graph: ways to get each one's gradient out of it, compared by running them.

A generator G makes samples, a discriminator D scores them, and each has a loss of its own through
the same scores D(G(z)). The gradients that are wanted are those of D's loss by D's parameters and
of G's loss by G's. `comparison` gets them in each of `WAYS` and says whether they are equal, how
much memory the graph takes, and how long it takes.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor, nn
from torch.func import functional_call

from losslab.experiments.graph_memory import SavedTensors
from losslab.experiments.models.gan import GAN, build
from losslab.losses.adversarial import AdversarialLoss, NonSaturating

NOISE, FEATURES = 8, 2


@dataclass
class Game:
    """Two networks, their loss, and one batch: `real` samples (n, d) and `noise` (n, k)."""

    model: GAN
    loss: AdversarialLoss
    real: Tensor
    noise: Tensor

    @classmethod
    def made(cls, batch: int = 256, width: int = 128, seed: int = 0) -> "Game":
        """A game with networks of two hidden layers, drawn from `seed`, in float64."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            model = build((FEATURES,), 1, noise=NOISE, hidden=[width, width])
            assert isinstance(model, GAN)
            draws = [torch.randn(batch, size, dtype=torch.float64) for size in (FEATURES, NOISE)]
        return cls(model.double(), NonSaturating(), *draws)

    @property
    def d(self) -> list[nn.Parameter]:
        """D's parameters."""
        return list(self.model.discriminator.parameters())

    @property
    def g(self) -> list[nn.Parameter]:
        """G's parameters."""
        return list(self.model.generator.parameters())

    def losses(self, samples: Tensor) -> tuple[Tensor, Tensor]:
        """D's loss and G's, of the same scores of `samples`."""
        scores = self.model(samples)
        own = self.loss.discriminator(self.model(self.real), scores)
        return own, self.loss.generator(scores)

    def clear(self) -> None:
        """Forget all gradients."""
        self.model.zero_grad(set_to_none=True)


def two_backwards(game: Game) -> None:
    """Both losses on one graph, one backward each: an error, since the first one frees it."""
    d_loss, g_loss = game.losses(game.model.generate(game.noise))
    d_loss.backward()
    g_loss.backward()


def step_between(game: Game) -> None:
    """A kept graph, but D steps in between: an error, since G's backward needs D's old weights."""
    optimizer = torch.optim.SGD(game.d, lr=1e-3)
    d_loss, g_loss = game.losses(game.model.generate(game.noise))
    d_loss.backward(retain_graph=True)
    optimizer.step()
    g_loss.backward()


def retained(game: Game) -> None:
    """retain_graph: no error, but every gradient is that of both losses."""
    d_loss, g_loss = game.losses(game.model.generate(game.noise))
    d_loss.backward(retain_graph=True)
    g_loss.backward()


def retained_with_inputs(game: Game) -> None:
    """retain_graph, and each backward says whose gradients it is for."""
    d_loss, g_loss = game.losses(game.model.generate(game.noise))
    d_loss.backward(retain_graph=True, inputs=game.d)
    g_loss.backward(inputs=game.g)


def detached(game: Game) -> None:
    """D sees detached samples, G's loss scores them anew; D's gradients also get G's loss."""
    samples = game.model.generate(game.noise)
    game.loss.discriminator(game.model(game.real), game.model(samples.detach())).backward()
    game.loss.generator(game.model(samples)).backward()


def detached_with_inputs(game: Game) -> None:
    """The same, G's backward being for G alone: what the shipped task `adversarial` does."""
    samples = game.model.generate(game.noise)
    game.loss.discriminator(game.model(game.real), game.model(samples.detach())).backward()
    game.loss.generator(game.model(samples)).backward(inputs=game.g)


def generated_twice(game: Game) -> None:
    """G runs once without a graph for D, and once more for itself: never both graphs at once."""
    with torch.no_grad():
        samples = game.model.generate(game.noise)
    game.loss.discriminator(game.model(game.real), game.model(samples)).backward()
    game.loss.generator(game.model(game.model.generate(game.noise))).backward(inputs=game.g)


def joint(game: Game) -> None:
    """One backward of the sum of both losses, for one optimiser of all parameters."""
    d_loss, g_loss = game.losses(game.model.generate(game.noise))
    (d_loss + g_loss).backward()


def joint_frozen(game: Game) -> None:
    """One backward of the sum; D sees detached samples, G's samples see a D without gradients."""
    samples = game.model.generate(game.noise)
    frozen = {name: p.detach() for name, p in game.model.discriminator.named_parameters()}
    d_loss = game.loss.discriminator(game.model(game.real), game.model(samples.detach()))
    scores = functional_call(game.model.discriminator, frozen, (samples,))
    (d_loss + game.loss.generator(scores)).backward()


#: What each way is called in tables.
WAYS: dict[str, Callable[[Game], None]] = {
    "two backwards": two_backwards,
    "retain_graph, D steps between": step_between,
    "retain_graph": retained,
    "retain_graph and inputs": retained_with_inputs,
    "detach": detached,
    "detach and inputs": detached_with_inputs,
    "no_grad, generate twice": generated_twice,
    "joint": joint,
    "joint, D frozen for G": joint_frozen,
}


def comparison(batch: int = 256, width: int = 128, repeats: int = 0) -> pd.DataFrame:
    """One row for each of `WAYS`: what it raises, or which gradients it gives and what it takes.

    Columns: `way`; `error`, the first words of the message; `d_gradient` and `g_gradient`, whose
    gradient there is then in D's and in G's parameters ("own": that of its own loss; "both": of the
    sum of both losses; "other": neither), to 1e-10 of its norm in float64; `kilobytes`, the peak of
    what the graphs keep for backward (parameters and batch left out); with `repeats`, also
    `milliseconds`, the median CPU time of that many goes. Ways that fail have an error alone.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as trainings run
    try:
        return pd.DataFrame([_row(name, Game.made(batch, width), repeats) for name in WAYS])
    finally:
        torch.set_num_threads(threads)


def _row(name: str, game: Game, repeats: int) -> dict[str, object]:
    way = WAYS[name]
    row: dict[str, object] = {"way": name, "error": error_of(way, game)}
    if not row["error"]:
        row["d_gradient"], row["g_gradient"] = (gradient_of(game, player) for player in "dg")
        row["kilobytes"] = round(peak_of(way, game) / 1e3, 1)
        if repeats:
            row["milliseconds"] = _milliseconds(way, game, repeats)
    return row


def error_of(way: Callable[[Game], None], game: Game) -> str:
    """Go one way; the first words of the error that it raises, or nothing."""
    game.clear()
    try:
        way(game)
    except RuntimeError as problem:
        return str(problem).partition(" (")[0].partition(":")[0]
    return ""


def peak_of(way: Callable[[Game], None], game: Game) -> int:
    """Go one way; the most bytes that its graphs keep for backward at any time."""
    game.clear()
    with SavedTensors(without=[*game.model.parameters(), game.real, game.noise]) as saved:
        way(game)
    return saved.peak


def gradient_of(game: Game, player: str) -> str:
    """Whose gradient a player's parameters hold: "own", "both" or "other"; see `comparison`."""
    parameters = game.d if player == "d" else game.g
    held = [p.grad for p in parameters]
    wanted = {}
    for what in ("own", "both"):
        losses = game.losses(game.model.generate(game.noise))
        total = sum(losses) if what == "both" else losses[0 if player == "d" else 1]
        assert isinstance(total, Tensor)
        wanted[what] = torch.autograd.grad(total, parameters)
    for what, gradients in wanted.items():
        if all(h is not None and _equal(h, g) for h, g in zip(held, gradients, strict=True)):
            return what
    return "other"


def _equal(one: Tensor, other: Tensor) -> bool:
    return bool((one - other).norm() <= 1e-10 * other.norm())


def _milliseconds(way: Callable[[Game], None], game: Game, repeats: int) -> float:
    times = []
    for _ in range(repeats + 3):
        game.clear()
        began = time.process_time()
        way(game)
        times.append(1e3 * (time.process_time() - began))
    return round(statistics.median(times[3:]), 2)  # the first ones find cold caches
