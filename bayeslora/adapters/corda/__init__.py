"""CorDA: factors that start where a context needs the weight."""
