"""Grids of methods on data sets: recipes, runner, results."""
