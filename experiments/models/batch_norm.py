"""Batch norm as a setting of any model: what it normalises with, and what of it trains."""

from collections import OrderedDict
from collections.abc import Callable
from itertools import pairwise
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from losslab.errors import BadInput

Mode = Literal["batch", "running", "frozen"]
Module = TypeVar("Module", bound=nn.Module)
#: Running mean and variance of norms, by name.
Statistics = dict[str, tuple[Tensor, Tensor]]
ANY_NORM = nn.modules.batchnorm._BatchNorm
CONVOLUTION = nn.modules.conv._ConvNd
#: Training examples that `fitted` statistics are those of, at most.
FITTED_TO = 1024


def apply(
    model: nn.Module,
    features: Tensor | None = None,
    *,
    mode: Mode = "batch",
    tracked: bool = True,
    affine: bool = True,
    momentum: float | None = 0.1,
    fitted: bool = False,
) -> nn.Module:
    """Set how every batch norm of a model works; a model without any gets some.

    - `mode`: what training normalises with. `batch`: mean and variance of the batch, as usual;
      `running`: the running ones, through which no gradient flows; `frozen`: the running ones,
      which stand still, as do weight and bias.
    - `tracked`: whether running statistics follow the batches. Untracked, mode `batch` has none and
      normalises with the batch in evaluation too; mode `running` has them stand still, as torch's
      evaluation mode does, while weight and bias train. Not used under `frozen`.
    - `affine`: whether there is a weight and a bias per channel after the normalisation.
    - `momentum`: share of the newest batch in the running statistics; null: they are the averages
      over all batches so far.
    - `fitted`: start the running statistics at those of the training examples (a draw of 1,024 of
      them, where there are more) at the initial weights, instead of at mean 0 and variance 1.

    What a norm has (weight, bias, running statistics, eps) is kept where it still has a place. In
    a model without batch norms, one is put behind every linear layer or convolution that stands
    before an activation in an `nn.Sequential`; that layer's bias goes. `BadInput` where there is
    none, or nothing to fit to.
    """
    if momentum is not None and not 0 < momentum <= 1:
        raise BadInput(f"momentum: must be above 0 and at most 1, or null, got {momentum}")
    if not _norms(model) and not _insert(model):
        raise BadInput(
            "this model has no batch norm, and no linear layer or convolution directly before an "
            "activation of an nn.Sequential, where one could be put"
        )
    if fitted:
        if features is None:
            raise BadInput("fitted: needs the training examples, which this task does not give")
        _replace(model, lambda norm: BatchNorm.like(norm, affine=_is_affine(norm)))
        _fit(model, features)
    if mode == "frozen":
        _replace(model, lambda norm: FrozenBatchNorm.like(norm, affine=affine))
    else:
        _replace(
            model,
            lambda norm: BatchNorm.like(
                norm, affine=affine, momentum=momentum, statistics=mode, tracked=tracked
            ),
        )
    return model


class BatchNorm(ANY_NORM):
    """Batch norm of features (B, channels, ...) of any shape, told what to normalise with.

    With `statistics` "batch" it is torch's own, whose `track_running_stats` is `tracked`. With
    "running" a batch in training first moves the running statistics, if `tracked`, and is then
    normalised with them: mean and variance are constants to the gradient.

    >>> norm = BatchNorm(2, statistics="running", momentum=1.0)
    >>> (100 * norm(torch.tensor([[0.0, 5.0], [2.0, 5.0]]))).round().tolist()
    [[-71.0, 0.0], [71.0, 0.0]]
    """

    def __init__(
        self,
        channels: int,
        *,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        statistics: Literal["batch", "running"] = "batch",
        tracked: bool = True,
    ):
        super().__init__(channels, eps, momentum, affine, tracked or statistics == "running")
        self.statistics, self.tracked = statistics, tracked

    @classmethod
    def like(cls, norm: nn.Module, **options: object) -> "BatchNorm":
        """One with what `norm` has, as far as it has a place for it."""
        made = cls(_channels(norm), eps=norm.eps, **options)  # type: ignore[arg-type]
        return _with_state_of(norm, made)

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, channels, ...), normalised, scaled and shifted."""
        if self.statistics == "batch" or not self.training:
            return super().forward(features)
        if self.tracked:
            with torch.no_grad():
                super().forward(features)
        assert self.running_mean is not None
        assert self.running_var is not None
        # Copies: the graph must keep its numbers when another batch comes before its backward.
        mean, variance = self.running_mean.clone(), self.running_var.clone()
        return F.batch_norm(features, mean, variance, self.weight, self.bias, False, 0.0, self.eps)

    def extra_repr(self) -> str:
        """What it is, for `print`."""
        return f"{super().extra_repr()}, statistics={self.statistics}, tracked={self.tracked}"

    def _check_input_dim(self, input: Tensor) -> None:
        """Any shape will do."""


class FrozenBatchNorm(nn.Module):
    """Batch norm that neither learns nor follows the batch: a fixed scale and shift per channel.

    Weight, bias, running mean and variance are buffers of the names that `nn.BatchNorm2d` gives
    them, so that a state of one can be loaded; as it is made it does nothing but divide by
    sqrt(1 + eps). Evaluation mode of an `nn.BatchNorm2d` is not enough for this: its weight and
    bias would still train, and the next `model.train()` would end it.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    @classmethod
    def like(cls, norm: nn.Module, *, affine: bool = True) -> "FrozenBatchNorm":
        """One with what `norm` has; without `affine`, with weight 1 and bias 0."""
        return _with_state_of(norm, cls(_channels(norm), norm.eps), affine)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, channels, ...), scaled and shifted."""
        return F.batch_norm(
            features,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            False,
            0,
            self.eps,
        )


class ChannelsLast(nn.Module):
    """A norm of features (B, ..., channels), such as those of linear layers."""

    def __init__(self, norm: nn.Module):
        super().__init__()
        self.norm = norm

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, ..., channels), normalised over all but the last dimension."""
        rows: Tensor = self.norm(features.flatten(0, -2))
        return rows.view_as(features)


def running_statistics(model: nn.Module) -> Statistics:
    """Running mean and variance of every norm that has them, by the norm's name."""
    return {
        name: (module.running_mean, module.running_var)
        for name, module in model.named_modules()
        if isinstance(module, (ANY_NORM, FrozenBatchNorm))
        and module.running_mean is not None
        and module.running_var is not None
    }


def _norms(model: nn.Module) -> list[tuple[nn.Module, str, nn.Module]]:
    """Every batch norm: what it stands in, its name there, and itself."""
    return [
        (owner, name, child)
        for owner in model.modules()
        for name, child in owner._modules.items()
        if isinstance(child, (ANY_NORM, FrozenBatchNorm))
    ]


def _replace(model: nn.Module, make: Callable[[nn.Module], nn.Module]) -> None:
    """Put something else in the place of every batch norm, the same thing for the same norm."""
    made: dict[nn.Module, nn.Module] = {}
    for owner, name, norm in _norms(model):
        if norm not in made:
            made[norm] = make(norm)
        setattr(owner, name, made[norm])


def _insert(model: nn.Module) -> int:
    """Put a batch norm between every layer and activation of a chain; how many there are."""
    found = 0
    for chain in [module for module in model.modules() if isinstance(module, nn.Sequential)]:
        # Not `named_children`, which leaves out a layer that stands there for the second time.
        layers = list(chain._modules.items())
        for (name, layer), (_, after) in pairwise(layers):
            if not isinstance(layer, (nn.Linear, CONVOLUTION)) or not _is_activation(after):
                continue
            layer.bias = None
            norm: nn.Module
            if isinstance(layer, nn.Linear):
                norm = ChannelsLast(BatchNorm(layer.out_features))
            else:
                norm = BatchNorm(layer.out_channels)
            norm = norm.to(layer.weight)
            setattr(chain, name, nn.Sequential(OrderedDict(layer=layer, norm=norm)))
            found += 1
    return found


@torch.no_grad()
def _fit(model: nn.Module, features: Tensor) -> None:
    """Set running statistics to those of some of the features, layer by layer, in one pass."""
    features = features[torch.randperm(len(features))[:FITTED_TO].to(features.device)]
    if features.is_floating_point():
        model.to(features.dtype)  # which a training gives it anyway, a little later
    model.eval()
    for _, _, norm in _norms(model):
        assert isinstance(norm, BatchNorm)
        norm.reset_running_stats()
        norm.momentum = None  # the first batch's statistics whole
        norm.train()
    model(features.to(next(model.parameters()).device))
    model.train()


def _is_activation(module: nn.Module | None) -> bool:
    """Whether it is an activation, or a chain that begins with one."""
    if isinstance(module, nn.Sequential) and len(module):
        return _is_activation(module[0])
    return type(module).__module__ == nn.modules.activation.__name__


def _is_affine(norm: nn.Module) -> bool:
    return norm.weight is not None


def _channels(norm: nn.Module) -> int:
    if isinstance(norm, FrozenBatchNorm):
        return len(norm.running_mean)
    assert isinstance(norm, ANY_NORM)
    return norm.num_features


def _with_state_of(norm: nn.Module, made: Module, affine: bool = True) -> Module:
    """`made` with the tensors of `norm` that have a place in it."""
    state = norm.state_dict()
    for tensor in state.values():
        if tensor.is_floating_point():
            made = made.to(tensor)
    kept = {key: value for key, value in state.items() if affine or key not in ("weight", "bias")}
    made.load_state_dict(kept, strict=False)
    return made
