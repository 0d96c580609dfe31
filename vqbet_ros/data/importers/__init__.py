"""Datasets of other programs, turned into this program's dataset."""
