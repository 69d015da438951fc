"""The commands of `acsearch data`: check and split manifests before training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from acsearch.cli.files import Force, write_files
from acsearch.cli.options import echo
from trainers.errors import ConfigError

app = typer.Typer(help="Check and split training data.", no_args_is_help=True)

Manifest = Annotated[Path, typer.Argument(metavar="MANIFEST", help="The manifest: LLaVA's JSON, or parquet.")]
Images = Annotated[Path | None, typer.Option(help="Folder of the images; default: that of the manifest.")]


@app.command()
def check(
    manifest: Manifest,
    llm: Annotated[
        str, typer.Option("--llm", help="The language model whose tokenizer is used: a hub id or a folder.")
    ],
    template: Annotated[str, typer.Option(help="Template of the prompts: plain, vicuna_v1 or chat.")] = "vicuna_v1",
    images: Images = None,
    image_tokens: Annotated[int, typer.Option(min=1, help="Number of positions that an image takes.")] = 576,
    longest: Annotated[int, typer.Option(min=2, help="Number of positions after which a sample is cut.")] = 2048,
) -> None:
    """Read, decode and tokenise every sample, and name the first that training cannot use."""
    from trainers.data.manifest import check, read_manifest
    from trainers.model.loading import load_tokenizer

    counts = check(read_manifest(manifest, images), template, load_tokenizer(llm), image_tokens, longest)
    echo(f"{manifest}: good. " + ", ".join(f"{count:,} {what}".replace("_", " ") for what, count in counts.items()))


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

    from trainers.data.manifest import read_manifest
    from trainers.utils.regular_files import read_text

    if manifest.suffix != ".json":
        raise ConfigError(f"{manifest}: only LLaVA's JSON is split here")
    read = read_manifest(manifest)
    with_image = [index for index in range(len(read)) if read.has_image(index)]
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
