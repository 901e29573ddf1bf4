"""EMTAL: LoRA with feed-forward units that experts gate during training."""
