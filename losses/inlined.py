"""exp and log1p as polynomials: for compiled CPU code, where a call costs more than the arithmetic.

Inductor calls a vector library for both, once for every eight numbers, and each call spills the
registers. Written out, the whole loss stays in registers: about half the time.
"""

import math
from typing import Any

import torch
from torch import Tensor

# Minimax polynomials (Remez), relative error 2e-9 on |x| <= log(2)/2 and 5e-9 on [0, 1].
_EXP = (1.0, 1.0, 0.499999920798, 0.166664201703, 0.0416682255661, 0.00837481577816, 0.001383684614)
_LOG1P_OVER_X = (
    0.999999995287,
    -0.499999024201,
    0.333299623477,
    -0.249541330169,
    0.196759362536,
    -0.153055845131,
    0.106036420165,
    -0.0569594132535,
    0.0198514004943,
    -0.00324401191251,
)
# log(2) in two parts (Cody and Waite): the first has so few digits that n * LN2_HIGH is exact.
_LN2_HIGH = 0.693359375
_LN2_LOW = math.log(2) - _LN2_HIGH


def exp_of_negative(x: Tensor) -> Tensor:
    """exp(x) for float32 x <= 0, to two units in the last place; 0 below -87.7.

    >>> exp_of_negative(torch.tensor([0.0, -1.0, -1e9]))
    tensor([1.0000, 0.3679, 0.0000])
    """
    x = x.clamp(min=-127 * math.log(2))
    n = torch.round(x * (1 / math.log(2)))
    power_of_two = ((n.to(torch.int32) + 127) << 23).view(torch.float32)
    return _polynomial(_EXP, (x - n * _LN2_HIGH) - n * _LN2_LOW) * power_of_two


def log1p_of_unit(x: Tensor) -> Tensor:
    """log(1 + x) for float32 x in [0, 1], to two units in the last place.

    >>> log1p_of_unit(torch.tensor([0.0, 1e-10, 1.0]))
    tensor([0.0000e+00, 1.0000e-10, 6.9315e-01])
    """
    return x * _polynomial(_LOG1P_OVER_X, x)


def _polynomial(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
    # Estrin's order: pairs first, so that the multiplications do not wait for each other.
    terms: list[Any] = list(coefficients)
    while len(terms) > 1:
        pairs = [low + high * x for low, high in zip(terms[::2], terms[1::2], strict=False)]
        terms = pairs + terms[2 * len(pairs) :]
        x = x * x
    return terms[0]
