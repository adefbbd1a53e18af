"""What a list of scored rows amounts to; one file per metric."""
