"""Pretrained weights of others: the files that are loaded and hashed, and what their configurations may ask for."""
