"""Results on the Hugging Face hub: what goes there, its card, and the one process that uploads. Never imports torch."""
