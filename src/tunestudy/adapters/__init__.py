"""Adapters: one module per kind, attached by `attach.py`."""
