"""From records on disk to batches: sources → formats → tokenize → prepare (cached corpus) → order and pack → batch."""
