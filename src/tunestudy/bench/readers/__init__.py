"""Benchmarks whose records hold questions that no template can write; one module each, named in `reader:`.

A module has `COLUMNS`, the record's columns that it needs, and `questions(record)`, which yields for every question
what follows the record's id and the columns `question`, `answer` and whatever else its definition names. It raises
ValueError for a record that it cannot read.
"""
