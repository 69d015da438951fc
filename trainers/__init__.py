"""The multimodal model and its two training stages."""

import acsearch  # noqa: F401  installs the torchvision guard before anything imports torchvision
