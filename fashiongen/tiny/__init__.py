"""The tiny checkpoints: real classes at a size that two CPU cores can train, shipped in `weights/`."""
