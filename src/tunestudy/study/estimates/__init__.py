"""What a study will take, before it runs: steps, seconds, bytes; each at least, as expected and at most."""
