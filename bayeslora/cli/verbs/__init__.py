"""The verbs. Each module has `add_arguments(parser)` and `run(args)`."""
