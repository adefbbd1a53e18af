"""Checks before anything runs: all that is wrong is told at once, and nothing has been written yet."""
