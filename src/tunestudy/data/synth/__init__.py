"""Image-text data drawn when they are read, with answers that follow from how they were drawn; see docs/synth.md."""
