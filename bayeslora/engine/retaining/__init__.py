"""The quality-retaining loss: a task that is learnt is held where it is, beside any adapter."""
