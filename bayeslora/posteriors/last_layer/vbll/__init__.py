"""Variational Bayesian last layer."""
