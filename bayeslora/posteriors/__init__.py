"""What is random: one file a method."""
