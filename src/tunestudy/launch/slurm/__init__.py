"""Jobs handed to SLURM: it places and restarts them, our own files say what is done."""
