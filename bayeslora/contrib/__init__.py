"""Side methods, written against the interface that other packages have."""
