"""End-to-end finetuning: the encoder trains with the head, and goes back into a cache."""
