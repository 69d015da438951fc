"""Training data: manifests, prompt templates, batches, the order of samples, cached features."""
