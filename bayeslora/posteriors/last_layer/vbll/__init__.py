"""Variational Bayesian last layer; read options, head and final, then bounds and covariance."""
