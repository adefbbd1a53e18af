"""From a run directory to tables, a page and a document. Reads files only; `build.py` is the way in."""
