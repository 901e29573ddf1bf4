"""The quality-retaining loss, which keeps learnt tasks in place with any adapter."""
