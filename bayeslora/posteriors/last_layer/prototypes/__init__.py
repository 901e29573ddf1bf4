"""A prototype for each class: logits are cosines of the features with it."""
