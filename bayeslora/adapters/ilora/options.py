"""Options of iLoRA.

    z = encoding of the history, or the frozen backbone's feature of the text        [B, k]
    p = softmax(R LayerNorm(z) + c) ,   g = K p                                       [B, K]
    y = x Wᵀ + b + s · (x Aᵀ ∘ rep(g)) Bᵀ ,   s = alpha / r

`rep` repeats each of the K gates over the r / K directions of its expert. All tokens of a text and
all layers share one gate vector. R and c are initially zero: g = 1, which is LoRA.

Source: Kong et al. 2024, arXiv 2408.10159. Its router is a convolution over the coordinates of z
with batch normalisation, which makes the gate depend on the batch; ours is a linear map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from bayeslora.adapters.base import Adapted
from bayeslora.adapters.lora import LoRA
from bayeslora.errors import InputError
from bayeslora.option_checks import Count, Positive

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from bayeslora.adapters.site import Site
    from bayeslora.conditioning import Conditioning

ROUTER_DECAY = 1e-5


@dataclass(frozen=True)
class ILoRA(LoRA):
    """LoRA whose rank is split among experts, weighted by a gate for each example."""

    name: ClassVar[str] = "ilora"
    summary: ClassVar[str] = "LoRA split into experts, weighted by a gate for each example"
    use: ClassVar[str] = "Sequences of users or items with different kinds of examples."
    source: ClassVar[str] = "Kong et al. 2024, arXiv 2408.10159"
    parameters: ClassVar[str] = "r (in + out) per layer, and num_experts (context + 1)"

    r: Annotated[
        Count, "Rank of the change of each adapted weight, a multiple of `num_experts`."
    ] = 8
    num_experts: Annotated[
        Count, "Number of parts of the rank, each with its own gate; 1 is LoRA."
    ] = 4
    context: Annotated[
        Literal["auto", "history", "text"],
        "Input of the gate: the `history` of items, encoded by which items occur together in the "
        "training rows, or the frozen backbone's feature of the `text`. `auto` means the history "
        "if the rows have one, else the text.",
    ] = "auto"
    gate_lr_factor: Annotated[
        Positive, "Learning rate of the router, relative to that of the factors."
    ] = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.r % self.num_experts:
            raise InputError(
                "r must be a multiple of num_experts, since all experts have the same rank; got "
                f"r={self.r} and num_experts={self.num_experts}"
            )

    @property
    def no_gate(self) -> str:
        """Another gate is impossible, since this adapter has its own."""
        return "it already has its own gate there"

    def check_rows(self, rows: Any) -> None:
        """Raise InputError if `context` is `history` and the rows have no history."""
        if self.context == "history" and getattr(rows, "history", None) is None:
            raise InputError(
                f"{rows.source}: context=history needs rows with a history of items (columns "
                "history, candidates, answer); leave context out to gate by the text"
            )

    def conditioning(self, sites: Sequence[Site], num_features: int) -> Conditioning:
        """Return the gate, attached to the sites."""
        from bayeslora.adapters.ilora.gate import InstanceGate

        gate = InstanceGate(self.num_experts, num_features, self.context)
        gate.attach(sites)
        return gate

    def further_optimizers(self, network: Adapted) -> Sequence[Optimizer]:
        """Return the optimiser of the router.

        Raises:
            InputError: The network was built for another adapter.
        """
        from torch.optim import AdamW

        if network.conditioning is None:
            raise InputError("the network was built for another adapter")
        group = {"params": list(network.conditioning.parameters()), "name": "router"}
        rate = self.gate_lr_factor * self.learning_rate
        return [AdamW([group], lr=rate, weight_decay=ROUTER_DECAY)]
