"""The micro study: small encoders and a small LLM on a small world, all of it made from a seed."""
