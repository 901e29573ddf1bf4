"""Training of one network: adapter and last layer in alternation, then the final fit."""
