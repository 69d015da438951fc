"""The commands of `acsearch score`: each measures one score of one candidate, outside of any study."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from acsearch.cli.options import Json, echo, print_json
from trainers.errors import ConfigError, first_line

if TYPE_CHECKING:
    from acsearch.scores.pck import CorrespondenceResult, Pck
    from trainers.data.samples import Samples as IndexedSamples
    from trainers.model.multimodal import MultimodalModel
    from trainers.representation import Representation

app = typer.Typer(help="Measure a score of a candidate: correspondence C or alignment A.", no_args_is_help=True)

Encoder = Annotated[
    str,
    typer.Option("--encoder", metavar="NAME", help="Name of the representation, such as clip-l14@336+dinov2-l14@336."),
]
PairsFolder = Annotated[
    Path, typer.Option("--pairs", metavar="DIR", help="Folder of image pairs in the layout of SPair-71k.")
]
Split = Annotated[str, typer.Option(help="Split of the pairs, a folder in PairAnnotation.")]
Registry = Annotated[
    list[Path] | None, typer.Option("--registry", help="A YAML file with further encoders; may be repeated.")
]
Layer = Annotated[
    int | None, typer.Option(help="Layer of encoders whose name gives none, such as -1; default: as registered.")
]
Checkpoint = Annotated[Path, typer.Option("--checkpoint", metavar="DIR", help="Checkpoint of stage 1.")]
Data = Annotated[Path, typer.Option("--data", metavar="FILE", help="Manifest with captions, .parquet or .json.")]
Images = Annotated[Path | None, typer.Option(help="Folder of the images; default: that of the manifest.")]
Samples = Annotated[int, typer.Option(min=1, help="Number of captioned images to measure on.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the choice of samples.")]
Template = Annotated[str, typer.Option(help="Template that stage 1 was trained with.")]
Longest = Annotated[int, typer.Option(min=2, help="Number of positions after which a sample is cut.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Number of images at a time; the score does not depend on it.")]
Device = Annotated[str | None, typer.Option(help="Device: cpu, cuda or cuda:1; default: a GPU if there is one.")]
Dtype = Annotated[str, typer.Option(help="Precision of the encoders: float32, bfloat16 or float16.")]


@app.command("C")
def correspondence(
    encoder: Encoder,
    pairs: PairsFolder,
    split: Split = "test",
    registry: Registry = None,
    layer: Layer = None,
    decode: Annotated[str, typer.Option(help="Decoding: argmax, or soft, a softmax around the best cell.")] = "argmax",
    batch_size: BatchSize = 16,
    device: Device = None,
    dtype: Dtype = "float32",
    as_json: Json = False,
) -> None:
    """Measure correspondence: per-image PCK@0.10 on exactly what the connector receives."""
    from acsearch.scores.correspondence import DECODES
    from acsearch.scores.extract import measure
    from acsearch.scores.pairs import read_pairs
    from trainers.encoders import load_registry
    from trainers.encoders.joined import build_representation

    if decode not in DECODES:
        raise ConfigError(f"--decode {decode!r}: choose {' or '.join(DECODES)}")
    began = time.perf_counter()
    representation = _representation(encoder, layer)
    read = read_pairs(pairs, split)
    vision = build_representation(
        representation, load_registry(*registry or ()), device=_device(device), dtype=_dtype(dtype)
    )
    result = measure(vision, read, decode=decode, batch_size=batch_size)
    _show_correspondence("C", representation, pairs, result, time.perf_counter() - began, as_json)


@app.command("C_compat")
def correspondence_compat(
    encoder: Encoder,
    pairs: PairsFolder,
    split: Split = "test",
    registry: Registry = None,
    layer: Layer = None,
    batch_size: BatchSize = 16,
    device: Device = None,
    dtype: Dtype = "float32",
    as_json: Json = False,
) -> None:
    """Measure correspondence as the authors of the AC law do, to compare with their published numbers."""
    from acsearch.scores.extract import measure_compat
    from acsearch.scores.pairs import read_pairs
    from trainers.encoders import load_registry

    began = time.perf_counter()
    representation = _representation(encoder, layer)
    read = read_pairs(pairs, split)
    result = measure_compat(
        representation,
        load_registry(*registry or ()),
        read,
        device=_device(device),
        dtype=_dtype(dtype),
        batch_size=batch_size,
    )
    _show_correspondence("C_compat", representation, pairs, result, time.perf_counter() - began, as_json)


def _likelihood(definition: str) -> Callable[..., None]:
    """The command of A_ll or of A_ll_train, which are the same measurement on different data."""

    def command(
        checkpoint: Checkpoint,
        data: Data,
        images: Images = None,
        samples: Samples = 100,
        seed: Seed = 0,
        template: Template = "plain",
        longest: Longest = 2048,
        batch_size: BatchSize = 16,
        device: Device = None,
        as_json: Json = False,
    ) -> None:
        from acsearch.scores.alignment import alignment_ll
        from acsearch.scores.stage1 import caption_batches

        began = time.perf_counter()
        found, chosen, (model,) = _open([checkpoint], data, images, template, samples, seed, device)
        batches = caption_batches(model, found, chosen, longest=longest, batch_size=batch_size)
        result = alignment_ll(model, batches)
        seconds = time.perf_counter() - began
        if as_json:
            about = {"checkpoint": str(checkpoint), "data": str(data), "template": template, "seed": seed}
            _print(definition, about, result.value, result.to_json(), seconds)
            return
        rows = [
            ("mean over samples", f"{result.value:.4f}"),
            ("standard error", f"{result.standard_error:.4f}"),
            ("mean over tokens", f"{result.token_weighted:.4f}"),
        ]
        _show(definition, str(checkpoint), rows, ("", "nats per token"))
        echo(f"\n{result.samples} captions, {result.tokens} tokens, {seconds:.1f} s")

    return command


app.command("A_ll", help="Measure alignment: log-likelihood per token of captions that stage 1 was not trained on.")(
    _likelihood("A_ll")
)
app.command("A_ll_train", help="Measure alignment as in the paper: the same, of captions that stage 1 was trained on.")(
    _likelihood("A_ll_train")
)


@app.command("A_cos")
def cosine(
    checkpoint: Checkpoint,
    data: Data,
    reference: Annotated[
        list[Path], typer.Option(metavar="DIR", help="Checkpoint of stage 1 of a reference model; repeat it for each.")
    ],
    images: Images = None,
    samples: Samples = 100,
    seed: Seed = 0,
    batch_size: BatchSize = 16,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Measure alignment: cosine of projected tokens to those of reference models, in the paper CLIP at 224 and 336."""
    from acsearch.scores.alignment import alignment_cos
    from acsearch.scores.stage1 import images as read_images

    began = time.perf_counter()
    checkpoints = [checkpoint, *reference]
    found, chosen, (model, *references) = _open(checkpoints, data, images, "plain", samples, seed, device)
    result = alignment_cos(model, references, read_images(found, chosen), batch_size=batch_size)
    seconds = time.perf_counter() - began
    about = {"checkpoint": str(checkpoint), "references": [str(one) for one in reference], "data": str(data)}
    if as_json:
        _print("A_cos", about | {"seed": seed}, result.value, result.to_json(), seconds)
        return
    rows = [(str(folder), f"{one:.4f}") for folder, one in zip(reference, result.by_reference, strict=True)]
    _show("A_cos", str(checkpoint), [("A_cos", f"{result.value:.4f}"), *rows], ("", "cosine"))
    echo(f"\n{result.images} images, {seconds:.1f} s")


def _open(
    checkpoints: Sequence[Path],
    data: Path,
    images: Path | None,
    template: str,
    count: int,
    seed: int,
    device: str | None,
) -> tuple[IndexedSamples, list[int], list[MultimodalModel]]:
    """Samples, those to measure on, and the models of stage-1 checkpoints on a device."""
    from acsearch.scores.stage1 import choose
    from acsearch.storage.home import Home
    from trainers.data.samples import read_samples
    from trainers.model.loading import load_model

    place = _device(device)
    models = [load_model(folder, place) for folder in checkpoints]
    words = models[0].tokenizer
    samples = read_samples(data, images, template=template, tokenizer=words, folder=Home().work / "index")
    return samples, choose(samples, count, seed), models


def _representation(name: str, layer: int | None) -> Representation:
    from trainers.representation import parse

    given = parse(name)
    if layer is None:
        return given
    parts = [part if part.layer is not None else replace(part, layer=layer) for part in given.parts]
    return replace(given, parts=tuple(parts))


def _device(name: str | None) -> str:
    import torch

    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # torch raises both
        raise ConfigError(f"--device {name!r}: {first_line(error)}") from error
    return name


def _dtype(name: str) -> Any:
    import torch

    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in known:
        raise ConfigError(f"--dtype {name!r}: choose {', '.join(known)}")
    return known[name]


def _show_correspondence(
    definition: str,
    representation: Representation,
    pairs: Path,
    result: CorrespondenceResult,
    seconds: float,
    as_json: bool,
) -> None:
    if as_json:
        about = {"representation": str(representation), "pairs": str(pairs)}
        _print(definition, about, result.per_image, result.to_json(), seconds)
        return
    named: dict[str, Pck | None] = {
        definition: result.overall,
        "geometry-aware": result.geometry_aware,
        "position code": result.position,
        "ceiling of the grid": result.ceiling,
        **{f"  {category}": one for category, one in result.by_category.items()},
    }
    rows = [
        (name, f"{one.per_image:.2f}", f"{one.per_point:.2f}", str(one.pairs), str(one.points))
        for name, one in named.items()
        if one is not None
    ]
    title = f"{representation}, PCK@{result.alpha:.2f} by {result.decode}, {result.grid[0]} x {result.grid[1]} cells"
    _show(definition, title, rows, ("", "per image", "per point", "pairs", "keypoints"))
    echo(f"\n{seconds:.1f} s")


def _show(definition: str, title: str, rows: Sequence[tuple[str, ...]], columns: Sequence[str]) -> None:
    """Print a table whose first row is the score itself."""
    from acsearch.cli.screen import Screen, bold
    from acsearch.scores import SCORES

    console = Screen()
    console.say("\n", bold(title), f"\n{SCORES[definition].summary}\n")
    console.show_table(columns, rows, strong=[0])


def _print(definition: str, about: dict[str, Any], value: float, numbers: dict[str, Any], seconds: float) -> None:
    """Print as JSON which score this is, of what, its value and unit, all its numbers, and the time it took."""
    from acsearch.scores import SCORES

    score = SCORES[definition]
    head = {"definition": definition, "version": score.version, **about, "value": value, "unit": score.unit}
    print_json(head | numbers | {"seconds": round(seconds, 3)})
