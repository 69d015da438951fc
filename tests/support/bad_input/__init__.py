"""Inputs with one thing wrong each, by what they are inputs of."""
