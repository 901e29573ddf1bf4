"""Scores of predictions: values, intervals, bins, comparisons."""
