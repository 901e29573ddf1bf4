"""Monte Carlo dropout: the network's own dropout, active in prediction."""
