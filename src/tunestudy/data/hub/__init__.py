"""Bringing what a study names on the hub to this machine: models, data sets, benchmarks, at one commit each."""
