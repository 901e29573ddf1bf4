"""PoLAR: orthonormal factors around a free core."""
