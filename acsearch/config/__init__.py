"""Strict reading of study files, table files, priors and settings into typed values."""
