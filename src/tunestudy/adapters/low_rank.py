"""The best factors of a matrix at a given rank, and how much of it they hold.

Source: Eckart and Young 1936 (truncated SVD); of large matrices Halko, Martinsson and Tropp 2011, arXiv:0909.4061,
algorithms 4.4 and 5.1.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from tunestudy.models.draws import generator_of

EXACT = 768
"""Up to this length of the shorter side a full SVD is made; 4096 × 4096 would take most of a minute."""
POWER_ITERATIONS = 4
FLOOR = 1e-3
"""Of the first row of A: no row of A is shorter. One of zeros beside a column of zeros in B would never learn."""


@dataclass(frozen=True)
class Cut:
    """B A of rank r near a matrix D: `down` A (r, inputs), `up` B (outputs, r), fp32, sharing the singular values."""

    down: Tensor
    up: Tensor
    total: float
    """‖D‖²."""
    held: float
    """‖B A‖² = ‖D‖² − ‖D − B A‖²: B A is a projection of D."""
    spectrum: tuple[float, ...] | None = None
    """All squared singular values, largest first; None where only the first were computed."""

    @property
    def share(self) -> float:
        """Of D's squared norm; 1 for D = 0."""
        return 1.0 if self.total == 0 else min(1.0, self.held / self.total)

    def rank_for(self, share: float) -> int | None:
        """The lowest rank that holds at least this share; None where that is not known."""
        if self.spectrum is None:
            return None
        held = 0.0
        for rank, square in enumerate(self.spectrum, start=1):
            held += square
            if held >= share * self.total:
                return rank
        return len(self.spectrum)


@torch.no_grad()
def cut(matrix_OI: Tensor, rank: int, *, name: str) -> Cut:
    """The factors of rank min(rank, outputs, inputs) of a fp32 matrix, on its device.

    Exact up to EXACT rows or columns. Above, a random start (the same for the same `name`) is refined by power
    iterations with twice the rank: where singular values fall off, what is held is the best to a few digits; of noise,
    whose are all alike, up to a tenth less. `held` is that of the factors that are returned, either way.
    """
    rank = min(rank, *matrix_OI.shape)
    if min(matrix_OI.shape) <= EXACT:
        left, sizes, right = torch.linalg.svd(matrix_OI, full_matrices=False)
        spectrum: tuple[float, ...] | None = tuple(sizes.double().square().tolist())
    else:
        basis = _range_of(matrix_OI, 2 * rank + 8, name)
        inner, sizes, right = torch.linalg.svd(basis.T @ matrix_OI, full_matrices=False)
        left, spectrum = basis @ inner, None
    left, sizes, right = left[:, :rank], sizes[:rank], right[:rank]
    root = sizes.sqrt()
    root = root.clamp_min(FLOOR * float(root[0])) if float(sizes[0]) > 0 else torch.ones_like(root)
    total, held = (float(values.double().square().sum()) for values in (matrix_OI, sizes))
    return Cut((root[:, None] * right).contiguous(), (left * (sizes / root)).contiguous(), total, held, spectrum)


def _range_of(matrix_OI: Tensor, size: int, name: str) -> Tensor:
    """(O, size) orthonormal columns that span most of what the matrix reaches."""
    start = torch.randn(matrix_OI.shape[1], min(size, *matrix_OI.shape), generator=generator_of(name, 0))
    basis: Tensor = torch.linalg.qr(matrix_OI @ start.to(matrix_OI.device)).Q
    for _ in range(POWER_ITERATIONS):
        across = torch.linalg.qr(matrix_OI.T @ basis).Q
        basis = torch.linalg.qr(matrix_OI @ across).Q
    return basis


Pair = tuple[Tensor, Tensor]
"""A (r, inputs) and B (outputs, r), the scale inside B."""


def inner_product(one: Pair, other: Pair) -> float:
    """⟨B₁A₁, B₂A₂⟩, without forming the products."""
    return float(((one[1].T @ other[1]) * (one[0] @ other[0].T)).double().sum())
