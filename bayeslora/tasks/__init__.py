"""What is classified: readers, validation, known tasks, splits."""
