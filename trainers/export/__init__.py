"""Trained models in formats of other libraries."""
