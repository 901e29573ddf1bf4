"""From a batch of texts to features: loading, pooling, the frozen prefix."""
