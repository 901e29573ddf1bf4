"""A trainable change of selected columns of a frozen weight.

    y = x Wᵀ + b + x[…, idx] Dᵀ,                       W and b frozen, D [out, k] zero at the start

D is the change of the columns `W[:, idx]`, so its gradient, dYᵀ x[…, idx], equals these columns of
the gradient of full fine-tuning. PyTorch saves no input for a linear layer whose weight needs no
gradient: only the k selected inputs of x are saved for the backward pass, as a copy, since a view
would keep all of x.

The published S²FT permutes the selected units to the front and trains them in place. The
permutation must respect the groups of grouped-query attention, and the columns of W are no longer
the host's. Here nothing is permuted, and W stays the host's tensor: shared with other adapters,
with the same fingerprint, and not rounded if W is bfloat16 and D float32.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bayeslora.adapters.layers import frozen_layer, trained_layer
from bayeslora.adapters.site import Site
from bayeslora.errors import InputError

_MOST_NAMED = 8


class Columns(Site):
    """A frozen linear layer plus a change of some columns of its weight.

    Without columns it equals the frozen layer and has no parameters.

    Attributes:
        idx: [k] int64 buffer, the columns, ascending.
        sel: Linear layer from the k chosen inputs to the outputs; its weight is the change.

    Args:
        name: Dotted path of the replaced layer in its host.
        host: The layer to replace. Its weight and bias are shared, not copied, and frozen.
        idx: [k] integers, the columns to change, in any order; may be empty.

    Raises:
        InputError: See `check_columns`.
    """

    idx: Tensor

    def __init__(self, name: str, host: nn.Linear, idx: Tensor) -> None:
        super().__init__(name, host)
        device = host.weight.device
        self.register_buffer("idx", torch.zeros(0, dtype=torch.int64, device=device))
        # One column until `begin`: torch warns about a layer without inputs.
        self.sel = trained_layer(torch.zeros(len(host.weight), 1), device)
        self.begin(idx)
        self.train(host.training)

    @property
    def k(self) -> int:
        """Number of trained columns."""
        return len(self.idx)

    def forward(self, x: Tensor) -> Tensor:
        """Return [..., out] in the frozen layer's precision; the change is computed in its own."""
        base = F.linear(x, self.weight, self.bias)
        if not self.k:
            return base
        selected = x.index_select(-1, self.idx).to(self.sel.weight.dtype)
        product: Tensor = self.sel(selected)
        return base + product.to(base.dtype)

    def change(self, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
        """Return `(A [k, in], B [out, k])` for the change `B·A`; A selects the columns.

        Args:
            dtype: Dtype of the result; None means the adapter's.
        """
        B = self.sel.weight.to(dtype or self.sel.weight.dtype)
        A = torch.zeros(self.k, self.in_features, dtype=B.dtype, device=B.device)
        A[torch.arange(self.k, device=B.device), self.idx] = 1
        return A, B

    def delta(self) -> Tensor:
        """Return the change of the weight, [out, in], zero outside the columns."""
        B = self.sel.get_parameter("weight")
        zero = torch.zeros(self.out_features, self.in_features, dtype=B.dtype, device=B.device)
        return zero.index_copy(1, self.idx, B)

    @torch.no_grad()
    def begin(self, idx: Tensor) -> None:
        """Reset, in place, to a zero change of these columns.

        The parameter stays the same object, but objects that hold its gradient or size must be
        recreated.

        Raises:
            InputError: See `check_columns`.
        """
        chosen = check_columns(self.name, idx, self.in_features).to(self.weight.device)
        self.idx = chosen
        weight = self.sel.weight
        weight.grad = None
        weight.data = weight.new_zeros(self.out_features, len(chosen))
        weight.requires_grad_(bool(len(chosen)))
        self.sel.in_features = len(chosen)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """Return a frozen linear layer with the change merged in, in the host's precision.

        All other columns are bitwise equal to the host's.
        """
        weight = self.weight.detach().clone()
        columns = weight.index_select(1, self.idx)
        # The sum has the higher of the two precisions.
        weight.index_copy_(1, self.idx, (columns + self.sel.weight).to(weight.dtype))
        bias = None if self.bias is None else self.bias.detach().clone()
        return frozen_layer(weight, bias, self.training)

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors to save: `sel` [out, k] and `idx` [k]."""
        return {"sel": self.sel.weight, "idx": self.idx}

    def shapes(self, stored: Mapping[str, Tensor]) -> dict[str, torch.Size]:
        """Return the shapes of `sel` and `idx` for the stored columns.

        Raises:
            InputError: See `check_columns`; or the columns are not in ascending order.
        """
        idx = stored.get("idx", self.idx)
        chosen = check_columns(self.name, idx, self.in_features)
        if not torch.equal(chosen, idx.to(chosen)):
            raise InputError(f"adapter tensor '{self.name}.idx' is not in ascending order")
        return {"sel": torch.Size((self.out_features, len(chosen))), "idx": chosen.shape}

    def resize(self, stored: Mapping[str, Tensor]) -> None:
        """Reset to the stored columns if they differ from the current columns."""
        idx = stored.get("idx")
        if idx is not None and idx.tolist() != self.idx.tolist():
            self.begin(idx)

    def linears(self) -> dict[str, nn.Linear]:
        """Return the layer `sel`, or nothing without columns."""
        return {"sel": self.sel} if self.k else {}

    def extra_repr(self) -> str:
        """Return what `print(model)` shows beside the change."""
        return f"in={self.in_features}, out={self.out_features}, k={self.k}"


def check_columns(name: str, idx: Tensor, in_features: int) -> Tensor:
    """Return columns of a layer as ascending int64.

    Args:
        name: Name of the layer, for messages.
        idx: [k] integers, in any order.
        in_features: Number of columns of the weight.

    Raises:
        InputError: `idx` is not a vector of integers, has duplicates, or is out of range.
    """
    if idx.ndim != 1 or idx.is_floating_point() or idx.is_complex() or idx.dtype == torch.bool:
        raise InputError(
            f"{name}: columns must be a vector of integers, got {list(idx.shape)} of {idx.dtype}"
        )
    chosen: Tensor
    chosen, counts = torch.unique(idx.long(), return_counts=True)
    if (counts > 1).any():
        raise InputError(f"{name}: columns {named(chosen[counts > 1])} are chosen twice")
    outside = chosen[(chosen < 0) | (chosen >= in_features)]
    if len(outside):
        raise InputError(
            f"{name}: the weight has columns 0 to {in_features - 1}, got {named(outside)}"
        )
    return chosen


def named(columns: Tensor) -> str:
    """Return the indices of columns for a message, at most the first few."""
    first = ", ".join(str(column) for column in columns[:_MOST_NAMED].tolist())
    more = len(columns) - _MOST_NAMED
    return f"{first} and {more} more" if more > 0 else first
