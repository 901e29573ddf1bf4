"""Figures of a report: one file a subject, their common style, and SVG, PNG and PDF."""
