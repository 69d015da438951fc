"""The commands of `acsearch data`: index and split manifests before training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from acsearch.cli.files import Force, write_files
from acsearch.cli.options import echo
from trainers.errors import ConfigError, DataError

app = typer.Typer(help="Index and split training data.", no_args_is_help=True)

Manifest = Annotated[Path, typer.Argument(metavar="MANIFEST", help="The manifest: LLaVA's JSON, or parquet.")]
Images = Annotated[Path | None, typer.Option(help="Folder of the images; default: that of the manifest.")]


@app.command()
def index(
    manifest: Manifest,
    llm: Annotated[
        str, typer.Option("--llm", help="The language model whose tokenizer is used: a hub id or a folder.")
    ],
    template: Annotated[str, typer.Option(help="Template of the prompts: plain, vicuna_v1 or chat.")] = "vicuna_v1",
    images: Images = None,
    image_tokens: Annotated[int, typer.Option(min=1, help="Number of positions that an image takes.")] = 576,
    longest: Annotated[int, typer.Option(min=2, help="Number of positions after which a sample is cut.")] = 2048,
) -> None:
    """Tokenise every sample and decode every image, once for all candidates, and name the rows that cannot be used.

    Studies make the same index by themselves before they train.
    """
    from rich.console import Console

    from acsearch.storage.home import Home
    from trainers.data.index import problems
    from trainers.data.samples import read_samples
    from trainers.model.loading import load_tokenizer

    folder, words = Home().work / "index", load_tokenizer(llm)
    with Console(stderr=True).status("indexing") as status:
        samples = read_samples(
            manifest, images, template=template, tokenizer=words, folder=folder, drop=1.0, report=status.update
        )
    counts = f"{len(samples):,} samples, {samples.with_image.sum():,} with an image"
    echo(f"{manifest}: {counts}, {samples.text_tokens:,} text tokens, {samples.supervised_tokens:,} supervised")
    if idle := samples.idle(image_tokens, longest):
        echo(f"{idle:,} have no supervised token within {longest:,} positions")
    if samples.dropped:
        raise DataError(problems(samples.dropped, len(samples), manifest))


@app.command()
def split(
    manifest: Annotated[Path, typer.Argument(metavar="MANIFEST", help="The manifest, LLaVA's JSON.")],
    heldout: Annotated[int, typer.Option(min=1, help="Number of samples with an image to set aside.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the choice of samples.")] = 0,
    force: Force = False,
) -> None:
    """Set samples aside for A_ll, to hold out of training: writes MANIFEST-train.json and MANIFEST-heldout.json."""
    import json

    import numpy as np

    from trainers.data.manifest import open_manifest
    from trainers.utils.regular_files import read_text

    if manifest.suffix != ".json":
        raise ConfigError(f"{manifest}: only LLaVA's JSON is split here")
    rows = open_manifest(manifest)
    with_image = [number for number, row in enumerate(rows) if rows.image(number, row) is not None]
    if heldout >= len(with_image):
        raise ConfigError(f"--heldout {heldout}: {manifest} has {len(with_image)} samples with an image")
    chosen = set(np.random.default_rng(seed).choice(with_image, heldout, replace=False).tolist())
    records = json.loads(read_text(manifest))
    parts = {
        manifest.with_name(f"{manifest.stem}-{part}.json"): [
            record for index, record in enumerate(records) if (index in chosen) is take
        ]
        for part, take in (("train", False), ("heldout", True))
    }
    write_files({path: json.dumps(kept, ensure_ascii=False) for path, kept in parts.items()}, force=force)
    for path, kept in parts.items():
        echo(f"wrote {path}: {len(kept):,} samples")
