"""TFB: noise on a trained adapter."""
