"""BLoB: a Gaussian over one factor, trained with the adapter."""
