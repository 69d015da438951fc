"""Ranks: processes that do one task together, such as training. How they are started, watched and stopped."""
