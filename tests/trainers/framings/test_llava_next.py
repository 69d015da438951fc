"""anyres is LLaVA-NeXT's: the same tiles, and the same tokens for the same weights, as in transformers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPVisionConfig, LlamaConfig, LlavaNextConfig, LlavaNextForConditionalGeneration
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape, image_size_to_num_patches

from trainers.connectors import MapConnector, make_connector
from trainers.contracts import Features, MapShape, Seen
from trainers.framings import Framing, make_framing
from trainers.representation import Choice

SIZE, PATCH, WIDTH, OUT = 28, 7, 12, 16
PINPOINTS = [[SIZE, 2 * SIZE], [2 * SIZE, SIZE], [2 * SIZE, 2 * SIZE], [3 * SIZE, SIZE], [SIZE, 3 * SIZE]]
SIZES = [(28, 28), (56, 28), (640, 480), (480, 640), (100, 99), (1000, 10), (10, 1000), (3000, 1), (1, 3000), (1, 1)]
SIZES += [(83, 30), (31, 85), (57, 55), (336, 672)]
SIZES += [tuple(pair) for pair in np.random.default_rng(0).integers(1, 900, (40, 2)).tolist()]


@pytest.fixture(scope="module")
def theirs() -> Any:
    shape = {"num_hidden_layers": 2, "num_attention_heads": 2}
    vision = CLIPVisionConfig(hidden_size=WIDTH, intermediate_size=24, image_size=SIZE, patch_size=PATCH, **shape)
    text = LlamaConfig(hidden_size=OUT, intermediate_size=32, vocab_size=40, num_key_value_heads=2, **shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = LlavaNextConfig(vision_config=vision, text_config=text, image_grid_pinpoints=PINPOINTS)
        return LlavaNextForConditionalGeneration(config).eval()


@pytest.fixture(scope="module")
def connector(theirs: Any) -> MapConnector:
    """Ours with their weights."""
    made = make_connector(Choice("mlp2x"), [MapShape((4, 4), WIDTH)], OUT, seed=0, newline=True)
    projector = theirs.model.multi_modal_projector
    weights = {
        "layers.0.weight": projector.linear_1.weight,
        "layers.0.bias": projector.linear_1.bias,
        "layers.2.weight": projector.linear_2.weight,
        "layers.2.bias": projector.linear_2.bias,
        "newline": theirs.model.image_newline,
    }
    made.load_state_dict(weights)
    assert isinstance(made, MapConnector)
    return made


@pytest.fixture(scope="module")
def framing() -> Framing:
    return make_framing(Choice("anyres"), SIZE, PATCH)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_same_grid_of_tiles(framing: Framing, size: tuple[int, int]) -> None:
    layout = framing.layout(*size)
    own = (size[1], size[0])  # theirs is (height, width)
    assert (layout.rows, layout.columns) == get_anyres_image_grid_shape(own, PINPOINTS, SIZE)
    assert layout.views == image_size_to_num_patches(own, PINPOINTS, SIZE)


def test_the_same_pixels(framing: Framing) -> None:
    processor = LlavaNextImageProcessorPil(
        size={"shortest_edge": SIZE},
        crop_size={"height": SIZE, "width": SIZE},
        image_grid_pinpoints=PINPOINTS,
        do_rescale=False,
        do_normalize=False,
    )
    for size in [(640, 480), (480, 640), (101, 99), (300, 40), (40, 300), (28, 28)]:
        noise = np.random.default_rng(size[0]).integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)
        image = Image.fromarray(noise)
        expected = processor(image, return_tensors="pt")["pixel_values"][0]
        found = framing.views([image], framing.layout(*size), SIZE, PATCH, (0.5, 0.5, 0.5))
        assert found.shape == expected.shape
        assert float((found.float() - expected.float()).abs().max()) <= 1  # theirs goes through floats


def test_the_same_tokens(theirs: Any, connector: MapConnector, framing: Framing) -> None:
    """Projected, laid out, unpadded and ended with newlines, for many sizes at once."""
    layouts = [framing.layout(*size) for size in SIZES]
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(layout.views, 16, WIDTH, generator=generator) for layout in layouts]
    with torch.no_grad():
        projected = [theirs.model.multi_modal_projector(one) for one in maps]
        sizes = torch.tensor([(height, width) for width, height in SIZES])
        expected, lengths = theirs.model.pack_image_features(
            projected, sizes, vision_feature_select_strategy="default", image_newline=theirs.model.image_newline
        )
        seen = Seen(tuple(layouts), torch.zeros(sum(map(len, maps)), dtype=torch.long))
        found = connector((Features.of_maps(torch.cat(maps).unflatten(1, (4, 4))),), seen)
    assert found.counts == tuple(lengths.tolist()) == tuple(map(connector.count, layouts))
    for own, other in zip(found.split(), expected, strict=True):
        torch.testing.assert_close(own, other, atol=1e-6, rtol=1e-5)
