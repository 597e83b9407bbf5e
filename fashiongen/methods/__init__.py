"""Methods: one folder each, written to be read next to its paper."""
