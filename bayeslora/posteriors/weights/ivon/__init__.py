"""IVON: the curvature that the optimiser estimates."""
