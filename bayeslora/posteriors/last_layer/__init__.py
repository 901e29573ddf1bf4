"""Posteriors of the last layer."""
