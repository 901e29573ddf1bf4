"""Experiments: a grid of fits under a named protocol, resumable, on one machine or a cluster."""
