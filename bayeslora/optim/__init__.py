"""Optimisation on Stiefel manifolds and in alternation."""
