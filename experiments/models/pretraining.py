"""Greedy layer-wise pretraining of a chain of linear layers, one autoencoder after the other."""

from collections import OrderedDict
from itertools import pairwise
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from losslab.datasets.base import content_hash
from losslab.errors import BadInput

#: Trainings begin at what was found before in this process: a model is built at every rung anew.
_MOST_KNOWN = 64
_known: OrderedDict[str, dict[str, Tensor]] = OrderedDict()


def apply(
    model: nn.Module,
    *,
    epochs: Annotated[int, Field(ge=0)] = 20,
    learning_rate: Annotated[float, Field(gt=0)] = 0.003,
    batch_size: Annotated[int, Field(ge=1)] = 32,
    features: Tensor,
) -> nn.Module:
    """Start a chain of linear layers at what autoencoders find (Bengio et al., NeurIPS 2007).

    Every layer but the last learns, with its norm and activation, a code of what the layers before
    it give, from which a linear decoder of its own gets that back with the least squared error;
    then it stays, and the next layer has its turn. Adam over `epochs` passes in batches of
    `batch_size` at `learning_rate`. Neither labels nor other splits are looked at, and only initial
    values come of it: all of them train afterwards. What is found depends on initial weights,
    training examples and these options, so arms with the same model and seed begin alike.

    Raises `BadInput` where a model is no chain (`nn.Sequential`, which may be nested) or has but
    one linear layer.
    """
    chain = _flat(model)
    places = [i for i, layer in enumerate(chain) if isinstance(layer, nn.Linear)]
    if len(places) < 2:
        raise BadInput(
            "epochs: pretraining takes a chain of at least two linear layers, such as mlp; "
            f"got {type(model).__name__} with {len(places)} of them in a chain"
        )
    # Drawn whether or not it is used, so that what is built afterwards draws the same numbers.
    seed = int(torch.randint(2**31, ()))
    settings = repr((epochs, learning_rate, batch_size, seed))
    weights = [tensor.numpy(force=True) for tensor in model.state_dict().values()]
    key = content_hash(settings, features.numpy(force=True), *weights)
    if key not in _known:
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.default_generator.manual_seed(seed)
            codes = features.detach().cpu().to(next(model.parameters()).dtype)
            begin = 0
            for place, following in pairwise(places):
                with torch.no_grad():
                    codes = nn.Sequential(*chain[begin:place]).eval()(codes)
                block = nn.Sequential(*chain[place:following])
                _train(block, codes, epochs, learning_rate, batch_size)
                begin = place
        model.train()
        _known[key] = {name: t.detach().clone() for name, t in model.state_dict().items()}
        while len(_known) > _MOST_KNOWN:
            _known.popitem(last=False)
    model.load_state_dict(_known[key])
    return model


def _flat(module: nn.Module) -> list[nn.Module]:
    """The layers of a chain in their order; a module that is no chain is one layer."""
    if type(module) is not nn.Sequential:
        return [module]
    return [layer for child in module for layer in _flat(child)]


def _train(
    block: nn.Module, codes: Tensor, epochs: int, learning_rate: float, batch_size: int
) -> None:
    """Train a block and a linear decoder to give back what comes in."""
    block.train()
    with torch.no_grad():
        size = block(codes[:2]).shape[-1]
    decoder = nn.Linear(size, codes.shape[-1])
    parameters = [*block.parameters(), *decoder.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=learning_rate)
    for _ in range(epochs):
        for rows in torch.randperm(len(codes)).split(batch_size):
            if len(rows) < 2:  # a batch norm cannot train on one
                continue
            loss = nn.functional.mse_loss(decoder(block(codes[rows])), codes[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
