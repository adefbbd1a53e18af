"""The maths of each method, one file a method."""
