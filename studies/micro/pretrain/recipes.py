"""How every model is trained: one line for each encoder, and one for the LLM. Data only.

Families as in the AC paper: contrastive at two resolutions, sigmoid-contrastive, self-distilled, masked autoencoder,
supervised, one-step diffusion denoiser; and an untrained one as a control.
"""

from __future__ import annotations

from dataclasses import dataclass

WIDTH, DEPTH, HEADS, MLP, PATCH = 96, 5, 3, 384, 8
MEAN = STD = (0.5, 0.5, 0.5)  # pixels in [-1, 1] for every encoder
WORLD_SEED = 0  # of the scenes that everything here is trained on
SPLIT, PROBE_SPLIT = "pretrain", "probe"
PROBES = 3000  # scenes of the probe split
NOISE_LEVEL = 0.4  # of the denoiser, where features are taken


@dataclass(frozen=True)
class Recipe:
    """How one encoder is made.

    Attributes:
        name: in the registry, such as "clip-s8".
        size: of its images, in pixels.
        objective: a key of `objectives.OBJECTIVES`.
        steps: of the training.
        batch: images of a step.
        lr: the highest learning rate.
        seed: of weights, order and augmentations.
        images: how many scenes of the pretraining split it sees.
        warmup: share of the steps in which the rate rises.
        weight_decay: Muon's.
        adam: AdamW's learning rate, as a share of Muon's.
        start: folder of the encoder whose weights it starts from.
    """

    name: str
    size: int
    objective: str
    steps: int
    batch: int
    lr: float
    seed: int
    images: int = 16_384
    warmup: float = 0.1
    weight_decay: float = 0.05
    adam: float = 0.25
    start: str | None = None

    @property
    def folder(self) -> str:
        """The folder of its weights, such as "clip-s8@64"."""
        return f"{self.name}@{self.size}"


ENCODERS = (
    Recipe("clip-s8", 64, "clip", steps=370, batch=128, lr=3e-3, seed=1),
    Recipe("siglip-s8", 64, "siglip", steps=700, batch=64, lr=3e-3, seed=3),
    Recipe("dino-s8", 64, "dino", steps=480, batch=64, lr=2e-3, seed=4, adam=1.0),
    Recipe("mae-s8", 64, "mae", steps=1600, batch=64, lr=3e-3, seed=5),
    Recipe("supervised-s8", 64, "supervised", steps=900, batch=64, lr=3e-3, seed=6, adam=1.0),
    Recipe("denoiser-s8", 64, "denoiser", steps=900, batch=64, lr=3e-3, seed=7),
    Recipe("untrained-s8", 64, "untrained", steps=0, batch=1, lr=0.0, seed=8, images=0),
    Recipe("clip-s8", 96, "clip", steps=130, batch=128, lr=1e-3, seed=2, start="clip-s8@64"),
)


@dataclass(frozen=True)
class LanguageRecipe:
    """How the LLM is made.

    Attributes:
        folder: of its weights.
        width: of its hidden states.
        depth: how many layers.
        heads: of attention in a layer.
        mlp: width within its MLPs.
        positions: the longest sequence.
        steps: of the training.
        batch: sequences of a step.
        lr: the highest learning rate.
        seed: of weights, texts and noise.
        warmup: share of the steps in which the rate rises.
        weight_decay: Muon's.
        adam: AdamW's learning rate, as a share of Muon's.
    """

    folder: str = "llama-s3"
    width: int = 128
    depth: int = 3
    heads: int = 4
    mlp: int = 384
    positions: int = 512
    steps: int = 2000
    batch: int = 32
    lr: float = 3e-3
    seed: int = 9
    warmup: float = 0.05
    weight_decay: float = 0.05
    adam: float = 1.0


LANGUAGE = LanguageRecipe()
