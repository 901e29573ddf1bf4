"""Layer sampling: train a few adapted or whole layers at a time and freeze the others."""
