"""Methods: a folder each, which reads beside its paper."""
