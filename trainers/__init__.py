"""The multimodal model and its two training stages."""

from trainers.utils.torchvision_guard import install_guard

install_guard()  # before anything imports torchvision
