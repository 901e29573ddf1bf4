"""What is random: a folder per method in `last_layer` and `weights`."""
