"""Monte Carlo dropout: the network's own dropout, alive while it predicts."""
