"""The run directory: its layout and every way of writing to it. Both planes use it; nothing else writes these files."""
