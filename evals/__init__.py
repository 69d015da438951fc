"""Evaluation of finetuned models with lmms-eval. Not built yet: studies look scores up in a recorded table."""
