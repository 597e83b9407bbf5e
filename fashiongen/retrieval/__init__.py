"""Searching a catalogue of bottoms for a top: embeddings on the disk, indexes, and the command `fashiongen retrieve`."""
