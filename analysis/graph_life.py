"""The life of a dynamic graph, told by running it: when it is freed, and what its two doors do.

`lifetimes` says after which action how much of a graph is left; `doors` compares
`torch.autograd.grad` with `Tensor.backward`. docs/graphs.md shows both tables.
"""

import warnings
from collections.abc import Callable
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from losslab.experiments.graph_memory import SavedTensors, graph_nodes

BATCH, WIDTH = 64, 32


def lifetimes() -> pd.DataFrame:
    """What is left of the graph of one small network's loss after each action.

    Columns: `after`, the action; `kilobytes` that the graph then keeps for a backward pass, those
    of the batch and the parameters left out; `nodes` of the graph that the loss still has, 0 where
    nothing holds the loss any more. One layer of 32 units, a batch of 64, float32.
    """
    network, batch = _network()
    rows = []
    for name, action in _ACTIONS.items():
        network.zero_grad(set_to_none=True)
        with SavedTensors(without=[batch, *network.parameters()]) as saved:
            held = action(network, batch)
            nodes = sum(graph_nodes(each) for each in held)
            rows.append({"after": name, "kilobytes": saved.bytes / 1e3, "nodes": nodes})
            del held
    return pd.DataFrame(rows)


def _network() -> tuple[nn.Module, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        network = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 1))
        return network, torch.randn(BATCH, WIDTH)


def _loss(network: nn.Module, batch: Tensor) -> Tensor:
    loss: Tensor = network(batch).square().mean()
    return loss


def _backward(network: nn.Module, batch: Tensor, **options: Any) -> list[Tensor]:
    loss = _loss(network, batch)
    loss.backward(**options)
    return [loss]


def _created(network: nn.Module, batch: Tensor) -> list[Tensor]:
    with _quiet():
        _loss(network, batch).backward(create_graph=True)
    return []


def _no_grad(network: nn.Module, batch: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return [_loss(network, batch)]


def _frozen(network: nn.Module, batch: Tensor) -> list[Tensor]:
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    loss = _loss(network, batch)
    for parameter in network.parameters():
        parameter.requires_grad_(True)
    return [loss]


def _deleted(network: nn.Module, batch: Tensor) -> list[Tensor]:
    loss = _loss(network, batch)
    del loss
    return []


def _detached(network: nn.Module, batch: Tensor) -> list[Tensor]:
    return [_loss(network, batch).detach()]


def _total(network: nn.Module, batch: Tensor) -> list[Tensor]:
    total = torch.zeros(())
    for _ in range(10):
        total = total + _loss(network, batch)
    return [total]


def _total_of_items(network: nn.Module, batch: Tensor) -> list[Tensor]:
    total = torch.zeros(())
    for _ in range(10):
        total = total + _loss(network, batch).item()
    return [total]


def _total_trained(network: nn.Module, batch: Tensor) -> list[Tensor]:
    total = torch.zeros(())
    for _ in range(10):
        loss = _loss(network, batch)
        loss.backward()
        total = total + loss
    return [total]


_ACTIONS: dict[str, Callable[[nn.Module, Tensor], list[Tensor]]] = {
    "forward": lambda network, batch: [_loss(network, batch)],
    "forward under no_grad": _no_grad,
    "forward, no parameter requires grad": _frozen,
    "forward, then `del loss`": _deleted,
    "forward, `loss.detach()` kept": _detached,
    "backward": _backward,
    "backward, retain_graph": lambda n, b: _backward(n, b, retain_graph=True),
    "backward, create_graph, then `del loss`": _created,
    "10 × `total += loss`": _total,
    "10 × `total += loss.item()`": _total_of_items,
    "10 × backward, `total += loss`": _total_trained,
}


def doors() -> pd.DataFrame:
    """What `loss.backward()` and `torch.autograd.grad(loss, inputs)` do, question by question.

    Columns: `question`, `backward`, `grad`; every answer is found by trying. The function is
    w · w with the leaf w = 3, whose derivative is 6; the leaf u is not used.
    """
    rows = [
        ("gives back", _gives_back),
        ("where the gradient is afterwards: w.grad", _stored),
        ("called for two graphs: w.grad", _accumulated),
        ("gradient of an input that is not used", _unused),
        ("gradient of a result on the way", _on_the_way),
        ("hook on w (`register_hook`)", _tensor_hook),
        ("hook after w.grad is filled (`register_post_accumulate_grad_hook`)", _after_hook),
        ("create_graph: second derivative", _second),
        ("the graph afterwards", _freed),
    ]
    return pd.DataFrame(
        [{"question": what, "backward": by(False), "grad": by(True)} for what, by in rows]
    )


def _leaf() -> Tensor:
    return torch.tensor(3.0, requires_grad=True)


def _differentiate(grad: bool, result: Tensor, w: Tensor) -> tuple[Tensor, ...] | None:
    """Through one door or the other; what it gives back."""
    if grad:
        return torch.autograd.grad(result, w)
    return result.backward()


def _gives_back(grad: bool) -> str:
    w = _leaf()
    given = _differentiate(grad, w * w, w)
    return "None" if given is None else f"({given[0].item():g},)"


def _stored(grad: bool) -> str:
    w = _leaf()
    _differentiate(grad, w * w, w)
    return _number(w.grad)


def _accumulated(grad: bool) -> str:
    w = _leaf()
    for _ in range(2):
        _differentiate(grad, w * w, w)
    return _number(w.grad)


def _unused(grad: bool) -> str:
    w, u = _leaf(), _leaf()
    if not grad:
        (w * w).backward()
        return f"u.grad is {_number(u.grad)}"
    try:
        torch.autograd.grad(w * w, [w, u])
    except RuntimeError as error:
        told = str(error).partition(".")[0]
    loose = torch.autograd.grad(w * w, [w, u], allow_unused=True)[1]
    zero = torch.autograd.grad(w * w, [w, u], materialize_grads=True)[1]
    return f"{told}; allow_unused: {_number(loose)}; materialize_grads: {_number(zero)}"


def _on_the_way(grad: bool) -> str:
    w = _leaf()
    square = w * w
    if grad:
        return _number(torch.autograd.grad(2 * square, square)[0])
    kept = w * w
    kept.retain_grad()
    (2 * kept).backward()
    with _quiet():
        (2 * square).backward()
        return f"{_number(square.grad)}; after retain_grad: {_number(kept.grad)}"


def _tensor_hook(grad: bool) -> str:
    return _hooked(grad, lambda w, calls: w.register_hook(lambda _: calls.append(1)))


def _after_hook(grad: bool) -> str:
    return _hooked(
        grad, lambda w, calls: w.register_post_accumulate_grad_hook(lambda _: calls.append(1))
    )


def _hooked(grad: bool, register: Callable[[Tensor, list[int]], Any]) -> str:
    w, calls = _leaf(), list[int]()
    register(w, calls)
    _differentiate(grad, w * w, w)
    return "runs" if calls else "does not run"


def _second(grad: bool) -> str:
    w = _leaf()
    if grad:
        (first,) = torch.autograd.grad(w * w, w, create_graph=True)
        return _number(torch.autograd.grad(first, w)[0])
    with _quiet():
        (w * w).backward(create_graph=True)
    held, w.grad = w.grad, None  # else the second derivative is added to the first
    assert held is not None
    held.backward()
    return f"{_number(w.grad)}, once w.grad is cleared"


def _freed(grad: bool) -> str:
    w = _leaf()
    with SavedTensors() as saved:
        power = w.exp()
        _differentiate(grad, power, w)
        return "freed" if saved.bytes == 0 else "kept"


def _number(tensor: Tensor | None) -> str:
    return "None" if tensor is None else f"{tensor.item():g}"


def _quiet() -> Any:
    """Without torch's warnings about .grad of results on the way and about create_graph."""
    return warnings.catch_warnings(action="ignore")
