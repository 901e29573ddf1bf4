"""Prototypes: logits are cosines with the mean feature of each class."""
