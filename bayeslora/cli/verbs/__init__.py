"""The verbs. Each module has a `SUMMARY`, `add_arguments(parser)` and `run(args)`."""
