"""C-LoRA: a Gaussian inside each adapter that follows the input."""
