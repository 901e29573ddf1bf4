"""iLoRA: LoRA whose experts are gated by the example."""
