"""Posteriors: one folder per method in `last_layer` and `weights`."""
