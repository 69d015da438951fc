"""Self-distillation without labels: a student agrees with the moving average of itself on other crops of an image.

The image loss is DINO's (arXiv 2104.14294): prototypes, a centred and sharpened teacher, global and local crops. The
patch loss is iBOT's (arXiv 2111.07832), as in DINOv2: the student predicts the teacher's tokens of patches that are
hidden from it.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import nn
from torch.nn import functional as F

from studies.micro.pretrain.augment import crop, jitter, normalised
from studies.micro.pretrain.corpus import Corpus
from studies.micro.pretrain.objectives.base import Objective
from studies.micro.pretrain.recipes import PATCH, WIDTH
from studies.micro.pretrain.vit import dinov2_tower

_PROTOTYPES, _BOTTLENECK = 512, 64
_GLOBAL, _LOCAL, _LOCALS = 48, 24, 2  # sides of the crops in pixels, number of local ones
_STUDENT_HEAT, _TEACHER_HEAT = 0.1, 0.05
_CENTRE_MOMENTUM = 0.9
_HIDDEN = 0.4  # share of the patches that are hidden from the student


class _Head(nn.Module):
    """Logits of tokens (.., WIDTH) over prototypes: the cosine similarity to each."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, _BOTTLENECK))
        self.prototypes = nn.Parameter(torch.randn(_PROTOTYPES, _BOTTLENECK))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return F.normalize(self.body(tokens), dim=-1) @ F.normalize(self.prototypes, dim=-1).T


class SelfDistilled(Objective):
    """A student that agrees with the moving average of itself."""

    description = (
        "self-distilled as DINOv2: the class token agrees with a moving average's on other crops, tokens of hidden "
        "patches with the moving average's (heads thrown away; what is kept is the moving average)"
    )

    def __init__(self, size: int, corpus: Corpus) -> None:
        super().__init__(size, corpus)
        self.student = nn.ModuleDict({"body": dinov2_tower(size), "image": _Head(), "patch": _Head()})
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.register_buffer("centres", torch.zeros(2, _PROTOTYPES))
        self.encoder = self.teacher["body"]

    @staticmethod
    def image_size(size: int) -> int:
        return 96  # crops are enlargements

    def loss(self, rows: torch.Tensor, corpus: Corpus, generator: torch.Generator, progress: float) -> torch.Tensor:
        images = corpus.batch(rows)
        count = len(images)
        whole = torch.cat([_view(images, _GLOBAL, (0.35, 1.0), generator) for _ in range(2)])
        part = torch.cat([_view(images, _LOCAL, (0.08, 0.35), generator) for _ in range(_LOCALS)])
        patches = (_GLOBAL // PATCH) ** 2
        hidden = torch.rand(2 * count, patches, generator=generator) < _HIDDEN
        hidden[:count:2] = False  # some images are whole, as they will be

        with torch.no_grad():
            told = self.teacher["body"](pixel_values=whole).last_hidden_state
            image, patch = self.teacher["image"](told[:, 0]), self.teacher["patch"](told[:, 1:][hidden])
            wanted, wanted_patch = self._targets(0, image), self._targets(1, patch)
        seen = self.student["body"](pixel_values=whole, bool_masked_pos=hidden).last_hidden_state
        small = self.student["body"](pixel_values=part).last_hidden_state[:, 0]
        guesses = self.student["image"](torch.cat([seen[:, 0], small])).chunk(2 + _LOCALS)
        first, second = wanted.chunk(2)
        pairs = [(first, guesses[1]), (second, guesses[0])]
        pairs += [(target, guess) for guess in guesses[2:] for target in (first, second)]
        of_image = torch.stack([_cross_entropy(*pair) for pair in pairs]).mean()
        return of_image + _cross_entropy(wanted_patch, self.student["patch"](seen[:, 1:][hidden]))

    def _targets(self, which: int, logits: torch.Tensor) -> torch.Tensor:
        """The teacher's distribution, centred by the running mean, which moves."""
        centre = self.centres[which]
        target = ((logits - centre) / _TEACHER_HEAT).softmax(dim=-1)
        centre.lerp_(logits.mean(dim=0), 1 - _CENTRE_MOMENTUM)
        return target

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        momentum = 1 - 0.01 * (1 + math.cos(math.pi * progress)) / 2 - 0.001
        for mean, new in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            mean.lerp_(new, 1 - momentum)


def _view(images: torch.Tensor, size: int, scale: tuple[float, float], generator: torch.Generator) -> torch.Tensor:
    return normalised(jitter(crop(images, size, scale, generator, stretch=1.33), 0.3, generator, grey=0.1))


def _cross_entropy(target: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    return -(target * (logits / _STUDENT_HEAT).log_softmax(dim=-1)).sum(dim=-1).mean()
