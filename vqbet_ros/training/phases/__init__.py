"""The phases of a training, one file each."""
