"""Scoring a trained model on rows it never saw. A benchmark's kind is one file in `tasks/`."""
