"""The record between methods and metrics, its files and its foreign sources."""
