"""Jobs on a Ray cluster: `place.py` for the launcher, `driver.py` for the process that speaks with Ray."""
