"""One stage of training. Read `loop.py` first: it is the recipe; `stage.py` lays out what the recipe needs."""
