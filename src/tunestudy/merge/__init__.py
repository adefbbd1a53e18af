"""Merging models: weights of several in, one model or adapter out, one tensor at a time."""
