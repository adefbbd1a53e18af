"""Jobs on slots: who runs when and where, so that a study ends as soon as it can. Start reading at `pack.py`."""
