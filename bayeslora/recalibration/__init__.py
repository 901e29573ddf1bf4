"""Recalibrators: held-out predictions in, better probabilities out; no model is seen."""
