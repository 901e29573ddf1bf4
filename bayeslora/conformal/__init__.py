"""Conformal sets: a set of classes for every row that holds the label as often as was asked for."""
