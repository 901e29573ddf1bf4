"""SWAG: a Gaussian with the moments of late training."""
