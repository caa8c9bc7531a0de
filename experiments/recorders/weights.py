"""How large weights are, and how many are next to nothing: recorder `weights`."""

import torch

from losslab.experiments.recorders.layers import weights_of
from losslab.experiments.states import Job
from losslab.experiments.training import Parts

#: A weight below this counts as none: L1 by gradient steps never gives a 0 itself.
SMALL = 1e-3
#: Exponents of the histogram's edges: bins of half a decade between 1e-6 and 10.
EXPONENTS = [half / 2 for half in range(-12, 3)]
BINS = [f"bin_{place:02d}" for place in range(len(EXPONENTS) + 1)]


class Weights:
    """Sparsity, norms and a histogram of the weights (neither biases nor norms).

    `sparsity` is the share of weights with |w| < 1e-3, `l1` the sum of |w|, `l2` the root of the
    sum of squares. `bin_00` is the share with |w| < 1e-6, `bin_01` to `bin_14` the shares in
    halves of decades from there to 10, and `bin_15` the rest.
    """

    def __init__(self, parts: Parts, job: Job) -> None:
        self.parts = parts

    def measure(self) -> dict[str, float]:
        """The values now."""
        flat = [weight.detach().flatten() for weight in weights_of(self.parts.model).values()]
        sizes = torch.cat(flat).double().abs().cpu()
        edges = 10.0 ** torch.tensor(EXPONENTS, dtype=torch.float64)
        # right: a weight that is an edge is in the bin above it
        counts = torch.bincount(torch.bucketize(sizes, edges, right=True), minlength=len(BINS))
        shares = counts.double() / len(sizes)
        return {
            "sparsity": (sizes < SMALL).double().mean().item(),
            "l1": sizes.sum().item(),
            "l2": sizes.norm().item(),
            **dict(zip(BINS, shares.tolist(), strict=True)),
        }
