"""AMT: a pool of low-rank adapters, tuned on episodes against perturbations and then merged.

    c_n = mean of φ over the support of class n ,   logit_n(q) = κ cos(φ(q), c_n)

    1. δ ← argmax KL( p(Q) ‖ p(Q + δ) ) in a ball of radius ε, from a random start
    2. Z ← Z + γ_w ‖Z‖ g_Z / ‖g_Z‖ for both factors Z of a member,  g = ∇ L
    3. L = CE(p(Q), y) + λ KL( p(Q) ‖ p(Q + δ) ) at these weights, prototypes included
    4. restore Z; SGD step with the gradient of 3, clipped at norm 1

    W = W0 + Σ_p w_p (B_p A_p − B_0 A_0) ,   Σ w_p = 1

All members start from the largest singular vectors of W0, and each has its own adversary.

Source: Yang, Liu and Wei 2024, Mixture of Adversarial LoRAs, NeurIPS 2024. Their merge is tuned on
tasks of each test domain; here nothing is tuned on test domains.

*Pool*: the members on one linear layer.

    y = x Wᵀ + b + Σ_p w_p B_p(A_p(x)) − B_0(A_0(x)) ,   Σ w_p = 1

That is W0 + Σ_p w_p (B_p A_p − B_0 A_0): products are averaged, never factors. The members' factors
are concatenated in two linear layers, and members with w_p = 0 are skipped.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bayeslora.adapters.factors import Factors
from bayeslora.adapters.site import Site, trained_layer

COSINE_SCALE = 10.0
"""κ before training."""


class Pool(Site):
    """A frozen linear layer plus a mixture of low-rank changes; a `PooledSite`.

    Attributes:
        A: Linear layer whose weight [P r, in] holds the first factors.
        B: Linear layer whose weight [out, P r] holds the second factors.
        A0: [r, in] buffer, initial A_p of every member.
        B0: [out, r] buffer, initial B_p of every member.
        mixture: [P] buffer, w.
        cosine_scales: [P] buffer, κ of each member; the same in all sites.
    """

    centred = True
    A0: Tensor
    B0: Tensor
    mixture: Tensor
    cosine_scales: Tensor

    def __init__(self, name: str, host: nn.Linear, factors: Factors, num_members: int) -> None:
        """Initialise all members with the same factors and equal weights.

        Args:
            name: Dotted path of the replaced layer in its host.
            host: The layer to replace.
            factors: Initial factors of each member.
            num_members: P.
        """
        super().__init__(name, host)
        device = host.weight.device
        self.A = trained_layer(factors.A.repeat(num_members, 1), device)
        self.B = trained_layer(factors.B.repeat(1, num_members), device)
        for key, factor in (("A0", factors.A), ("B0", factors.B)):
            # The layout of a loaded tensor.
            start = factor.detach().clone(memory_format=torch.contiguous_format)
            self.register_buffer(key, start.to(device))
        self.register_buffer("mixture", torch.full((num_members,), 1 / num_members, device=device))
        self.register_buffer(
            "cosine_scales", torch.full((num_members,), COSINE_SCALE, device=device)
        )
        self.train(host.training)

    @property
    def r(self) -> int:
        """Rank of a member."""
        return self.A0.shape[0]

    @property
    def num_members(self) -> int:
        """P."""
        return len(self.mixture)

    def forward(self, x: Tensor) -> Tensor:
        """Return [..., out] in the frozen layer's precision; the change is computed in its own."""
        base = F.linear(x, self.weight, self.bias)
        x = x.to(self.A.weight.dtype)
        product = -F.linear(F.linear(x, self.A0), self.B0)
        for member, weight in enumerate(self.mixture.tolist()):
            if weight:
                part = self._slice(member)
                h = F.linear(x, self.A.weight[part])
                product = product + weight * F.linear(h, self.B.weight[:, part])
        return base + product.to(base.dtype)

    @torch.no_grad()
    def select(self, weights: Sequence[float]) -> None:
        """Set the mixture weights, P numbers that sum to 1."""
        self.mixture.copy_(torch.tensor(list(weights), dtype=torch.float64))

    def parts(self, member: int) -> list[tuple[Tensor, slice, int]]:
        """Return the factors of a member: the tensor that holds them, the slice, the axis."""
        part = self._slice(member)
        return [(self.A.weight, part, 0), (self.B.weight, part, 1)]

    def change(self, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
        """Return `(A [(k + 1) r, in], B [out, (k + 1) r])` for the change `B·A` of k members.

        `Σ w_p B_p A_p − B_0 A_0 = Σ w_p (B_p − B_0) A_p + B_0 (Σ w_p A_p − A_0)`: this form avoids
        cancellation.

        Args:
            dtype: Dtype of the computation and the result; None means the adapter's.
        """
        dtype = dtype or self.A.weight.dtype
        A0, B0 = self.A0.to(dtype), self.B0.to(dtype)
        firsts, seconds, mean = [], [], -A0
        for member, weight in enumerate(self.mixture.tolist()):
            if not weight:
                continue
            part = self._slice(member)
            A, B = self.A.weight[part].to(dtype), self.B.weight[:, part].to(dtype)
            firsts.append(A)
            seconds.append(weight * (B - B0))
            mean = mean + weight * A
        return torch.cat([*firsts, mean]), torch.cat([*seconds, B0], 1)

    def linears(self) -> dict[str, nn.Linear]:
        """Return the layers that hold the factors of all members."""
        return {"A": self.A, "B": self.B}

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors to save: factors, initial factors, mixture and κ."""
        names = ("A0", "B0", "mixture", "cosine_scales")
        return {**self.trainable(), **{name: getattr(self, name) for name in names}}

    def origin(self) -> dict[str, Tensor]:
        """Return copies of the initial factors."""
        times = self.num_members
        return {"A": self.A0.repeat(times, 1), "B": self.B0.repeat(1, times)}

    def extra_repr(self) -> str:
        """Return what `print(model)` shows beside the factors."""
        members = f"members={self.num_members}"
        return f"in={self.in_features}, out={self.out_features}, r={self.r}, {members}"

    def _slice(self, member: int) -> slice:
        return slice(member * self.r, (member + 1) * self.r)
