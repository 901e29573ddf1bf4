"""Studies, one per folder; README.md lists the question and the command of each."""
