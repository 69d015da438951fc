"""The tiny language model: its tokenizer, its texts and its training."""
