"""Loading, publishing and naming the parts of models."""
