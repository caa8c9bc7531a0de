"""Random sampling of negatives, the baseline that hard mining and focal losses are measured by."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from losslab.losses.arguments import check_whole
from losslab.losses.selection import RatioSelection


class RandomSampling(RatioSelection):
    """All positives and randomly drawn negatives, 3 per positive.

    Every forward pass in training mode draws anew, without replacement: with P positives
    (sigmoid: any target above 0; softmax: any class but 0), round(negatives_per_positive * P)
    negatives, and as many as with one positive where there is none. 3 is Fast R-CNN's share of a
    quarter positives (Girshick 2015, section 2.3), 1 that of region proposal networks (Ren et al.
    2015, arXiv v3, section 3.1.3). Both draw a fixed number per image, leave out positives above
    their share and fill up with negatives; here the positives decide, and all of them count.
    `per_image`: see `SelectedCrossEntropy`.

    The draw is a function of the structural option `seed`, of the number of the draw, which is
    part of the state dict, and of the place of the element in the batch: no random number
    generator is touched, and a training that is resumed goes on as it would have. In evaluation
    mode the last draw is used again. Other arguments, shapes, errors: see `Loss`.

    >>> import torch
    >>> x, y = torch.zeros(100), torch.zeros(100)
    >>> y[:5] = 1
    >>> RandomSampling(reduction="sum")(x, y) / 0.6931472  # 5 positives and 15 negatives
    tensor(20.)
    """

    structural: ClassVar[tuple[str, ...]] = ("per_image", "seed")
    formula = (
        "L = -log p_t of all P positives and of round(r max(P, 1)) random negatives, "
        "r = negatives_per_positive"
    )
    citation = (
        "Girshick, Fast R-CNN, ICCV 2015, section 2.3; Ren, He, Girshick, Sun, Faster R-CNN, "
        "NeurIPS 2015, arXiv v3, section 3.1.3"
    )
    samples = True
    draws: Tensor

    def __init__(self, *, seed: int = 0, **arguments: Any):
        super().__init__(**arguments)
        self.seed = check_whole(type(self).__name__, "seed", seed, 0)
        self.register_buffer("draws", torch.zeros((), dtype=torch.int64))

    def observe(self, logits: Tensor, targets: Tensor, kept: Tensor) -> None:
        """The next draw."""
        self.draws.add_(1)

    def keys(self, values: Tensor) -> Tensor:
        """Pseudo-random numbers, one per element."""
        index = torch.arange(values.numel(), device=values.device).reshape(values.shape)
        return random_bits(random_bits(_signed(self.seed), self.draws), index)


# SplitMix64 (Steele, Lea, Flood, Fast Splittable Pseudorandom Number Generators, OOPSLA 2014) in
# two's complement: int64 products wrap around as unsigned ones do, and a logical shift is an
# arithmetic one without the copies of the sign bit.
_GOLDEN = 0x9E3779B97F4A7C15
_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


def random_bits(start: Tensor | int, index: Tensor) -> Tensor:
    """The int64 numbers at places `index` >= 0 of the SplitMix64 stream that begins at `start`.

    >>> random_bits(1234567, torch.arange(2))
    tensor([6457827717110365317, 3203168211198807973])
    """
    bits = start + (index + 1) * _signed(_GOLDEN)
    for shift, multiplier in zip((30, 27), _MULTIPLIERS, strict=True):
        bits = (bits ^ _shifted(bits, shift)) * _signed(multiplier)
    return bits ^ _shifted(bits, 31)


def _shifted(bits: Tensor, by: int) -> Tensor:
    return (bits >> by) & ((1 << (64 - by)) - 1)


def _signed(word: int) -> int:
    word %= 1 << 64
    return word - (1 << 64) if word >> 63 else word
