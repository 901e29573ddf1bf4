"""Laplace-LoRA: a linearised Laplace approximation over adapter weights."""
