"""Frozen vision encoders behind one contract: pixels in, a map of features out.

    registry = load_registry(Path("studies/mine/encoders.yaml"))
    encoder = make_encoder(Part("clip-l14", 336), registry, device="cuda")
    encoder.encode(pixels, seeds)          # (batch, 3, 336, 336) uint8 -> (batch, 24, 24, 1024)

`spec.py` says what an encoder is, `registry.yaml` lists the known ones, `weights.py` fetches their files, `base.py` is
the contract, and each other file is one adapter to a library that builds the towers.
"""

from trainers.encoders.base import Encoder
from trainers.encoders.registry import ADAPTERS, Registry, describe_encoder, load_registry, make_encoder
from trainers.encoders.spec import Checkpoint, EncoderSpec

__all__ = [
    "ADAPTERS",
    "Checkpoint",
    "Encoder",
    "EncoderSpec",
    "Registry",
    "describe_encoder",
    "load_registry",
    "make_encoder",
]
