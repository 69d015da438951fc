"""The training loop for both stages, its launch, its end before time, and the log of its metrics."""
