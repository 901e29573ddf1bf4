"""Conformal sets: sets of classes that contain the label with a requested probability."""
