"""Fit, predict and calibrate: the engine, which knows no method by its class."""
