"""Generative last layer."""
