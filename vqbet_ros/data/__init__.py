"""Demonstrations: episodes, the dataset store, importers and training windows."""
