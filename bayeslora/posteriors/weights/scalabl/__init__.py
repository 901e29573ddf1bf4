"""ScalaBL: a Gaussian over the scales of each adapter."""
