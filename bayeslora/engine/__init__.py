"""The Hugging Face Trainer subclass and what it needs."""
