"""LISA: whole layers train, a few at a time."""
