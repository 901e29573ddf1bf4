"""Posteriors over the weights of a network: one folder per method."""
