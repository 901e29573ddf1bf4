"""EMTAL: LoRA beside a feed-forward network that is gated by experts while it trains."""
