"""acsearch finds the vision representation a multimodal LLM should use, finetuning only a few of the candidates."""

import trainers  # noqa: F401  installs the torchvision guard before anything imports torchvision

__version__ = "0.1.0"
