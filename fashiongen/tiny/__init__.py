"""The tiny checkpoints: real classes, small enough to train on two CPU cores, shipped in `weights/`."""
