"""Data to classify: readers, validation, known tasks, splits."""
