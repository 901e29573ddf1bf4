"""Rows and columns of files: the only package that opens data and predictions files."""
