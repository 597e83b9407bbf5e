"""Searches a catalogue of bottoms for a top: embeddings on disk, indexes, and the command `fashiongen retrieve`."""
