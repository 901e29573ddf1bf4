"""A few layers train at a time, the others rest: of adapters, or of the backbone itself."""
