"""Configurations of other trainers as study files. `convert.py` reads top to bottom; each program's table is a module.

A table maps a program's keys to rules (`rules.py`); what a key becomes is carried, translated, not needed here, or
impossible with the reason. Nothing is dropped in silence.
"""
