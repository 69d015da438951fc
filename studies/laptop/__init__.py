"""The laptop study: base-size encoders and a small language model, on subsets of LLaVA's data."""
