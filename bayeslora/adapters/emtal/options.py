"""Options of EMTAL: experts among hidden units, whose gate fades during LoRA training.

Source: Zhong et al. 2024, arXiv 2501.06884.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from bayeslora.adapters.base import Adapted, LowRankAdapter, StepHook
from bayeslora.errors import InputError
from bayeslora.option_checks import Count, NotNegative, OnlyWith, Positive, UpToOne

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

    from bayeslora.adapters.factors import Factors
    from bayeslora.adapters.site import Site


@dataclass(frozen=True)
class EMTAL(LowRankAdapter):
    """LoRA on attention and feed-forward layers, with a gate over experts that fades out.

    The hidden units of each feed-forward network are grouped into experts of equal size by their
    weights. While training, a router weighs the experts for each token; its influence is `fade`,
    1 at first, and 0 from `fade_to` on and in every evaluation. What is left is the dense network
    with plain LoRA.
    """

    name: ClassVar[str] = "emtal"
    has_dropout: ClassVar[bool] = True
    is_free: ClassVar[bool] = True
    summary: ClassVar[str] = (
        "LoRA with a gate over groups of hidden units that fades out in training"
    )
    use: ClassVar[str] = (
        "LoRA that includes feed-forward layers, guided by experts during training."
    )
    source: ClassVar[str] = "Zhong et al. 2024, arXiv 2501.06884"
    parameters: ClassVar[str] = "r (in + out) per layer; K in a router, unused after training"
    default_lr: ClassVar[float] = 1e-3
    input_dependent: ClassVar[str] = (
        "its router weights hidden units by token until it has faded out"
    )
    only_with: ClassVar[OnlyWith] = {}

    r: int = 8
    alpha: Annotated[
        Positive | None, "The change is multiplied by `alpha / r`; None means `r`."
    ] = None
    num_experts: Annotated[
        Count,
        "Number K of experts per feed-forward network, a divisor of its hidden units; 1 is LoRA.",
    ] = 16
    router_temperature: Annotated[
        Positive,
        "Temperature τ of the router's softmax; a large value keeps the experts' weights near 1.",
    ] = 5.0
    fade_from: Annotated[UpToOne, "Share of the steps before the router starts to fade out."] = 0.25
    fade_to: Annotated[
        UpToOne, "Share of the steps after which its influence is 0; 0 trains without it."
    ] = 0.75
    init: Annotated[
        Literal["gaussian", "zero"],
        "`zero` starts from the pretrained network, with the second factor and the router at 0; "
        "`gaussian` draws both factors from N(0, 0.02²), as in the published code.",
    ] = "zero"
    dropout: float = 0.0
    target_modules: Annotated[
        tuple[str, ...] | None,
        "Endings of dotted module names, or regular expressions for whole names, of layers with "
        "LoRA besides the feed-forward layers; None means all other linear layers of the same "
        "transformer layers, which are those of the attention.",
    ] = None
    num_layers: int | Literal["auto"] | None = "auto"
    lr: Annotated[
        Positive | None, "Learning rate of AdamW on factors and router; None means {default_lr}."
    ] = None
    weight_decay: Annotated[NotNegative, "Decoupled weight decay of factors and router."] = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fade_to < self.fade_from:
            raise InputError(
                f"fade_to must be at least fade_from = {self.fade_from!r}, got {self.fade_to!r}"
            )

    def fade(self, share: float) -> float:
        """Return the router's influence, from 1 to 0, after a share of the training steps."""
        if share >= self.fade_to:
            return 0.0
        if share <= self.fade_from:
            return 1.0
        return (self.fade_to - share) / (self.fade_to - self.fade_from)

    def targets(self, model: nn.Module) -> list[str]:
        """Return the layers to adapt; see `experts.expert_targets`."""
        from bayeslora.adapters.emtal.experts import expert_targets

        return expert_targets(model, self)

    def start(self, weight: Tensor, generator: Generator) -> Factors:
        """Return LoRA's initial factors, or those of the published code."""
        from bayeslora.adapters.emtal.gate import gaussian
        from bayeslora.adapters.lora import kaiming_zero

        out_features, in_features = weight.shape
        begin = gaussian if self.init == "gaussian" else kaiming_zero
        return begin(out_features, in_features, self.r, generator)

    def make_sites(
        self,
        model: nn.Module,
        hosts: Mapping[str, nn.Linear],
        generator: Generator,
        *,
        blank: bool = False,
    ) -> list[Site]:
        """Return a `LowRank` for each layer, gated if its outputs are hidden units.

        Raises:
            InputError: `num_experts` does not divide the hidden units, or the rank is too large.
        """
        from bayeslora.adapters.emtal.experts import check_divides, find_ffns
        from bayeslora.adapters.emtal.gate import expert_sites

        blocks = {block.up: block for block in find_ffns(model) if block.up in hosts}
        for block in blocks.values():
            check_divides(hosts[block.up].out_features, self.num_experts, block.up)
        return expert_sites(self, hosts, blocks, generator, blank=blank)

    def callbacks(self, network: Adapted) -> Sequence[StepHook]:
        """Return the hook that sets the router's influence before each step."""
        from bayeslora.adapters.emtal.gate import Fading

        return [Fading(self, network.sites)]
