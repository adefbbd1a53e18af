"""Carrying a plan out: `executor.py` is the one loop; `run.py` is what the command `run` does around it."""
