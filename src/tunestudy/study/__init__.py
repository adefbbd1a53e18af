"""From a study file to a plan of jobs. Start reading at `plan.py`; `load.py` is how a file becomes a `Study`."""
