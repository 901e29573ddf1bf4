"""The record between methods and metrics, its file formats and external sources."""
