"""CorDA: context-oriented initialisation of the factors from the weight."""
