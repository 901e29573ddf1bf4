"""Recalibrators: better probabilities from held-out predictions, without the model."""
