"""acsearch finds the vision representation a multimodal LLM should use, finetuning only a few of the candidates."""

from trainers.utils import torchvision_guard as _torchvision

__version__ = "0.1.0"

_torchvision.install_guard()
