"""Rows and columns of files: the one room that opens data and predictions files."""
