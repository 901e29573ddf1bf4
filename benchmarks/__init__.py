"""Studies, one folder each; README.md has the question and the command of each."""
