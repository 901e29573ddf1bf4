"""The exact posterior of the last layer, by Markov chains."""
