"""Checkpoints that are committed as a whole or not at all, and the work store that shares them among machines."""
