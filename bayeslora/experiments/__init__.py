"""Many posteriors on few fits: the demo, and what benchmarks share with it."""
