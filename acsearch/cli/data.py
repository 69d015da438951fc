"""The commands of `acsearch data`: index and split manifests before training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from acsearch.cli.files import Force, write_files
from acsearch.cli.options import echo
from trainers.errors import ConfigError, DataError

if TYPE_CHECKING:
    from trainers.data.samples import Samples

app = typer.Typer(help="Index and split training data.", no_args_is_help=True)


@app.command()
def index(
    source: Annotated[str, typer.Argument(metavar="STUDY|MANIFEST", help="A study; or, with --llm, a manifest.")],
    llm: Annotated[
        str | None, typer.Option("--llm", help="The language model whose tokenizer is used: a hub id or a folder.")
    ] = None,
    template: Annotated[str, typer.Option(help="Template of the prompts: plain, vicuna_v1 or chat.")] = "vicuna_v1",
    images: Annotated[Path | None, typer.Option(help="Folder of the images; default: that of the manifest.")] = None,
    image_tokens: Annotated[int, typer.Option(min=1, help="Number of positions that an image takes.")] = 576,
    longest: Annotated[int, typer.Option(min=2, help="Number of positions after which a sample is cut.")] = 2048,
) -> None:
    """Tokenise every sample and decode every image, once for all candidates, and name the rows that cannot be used.

    Of a study, that is what it trains on and measures A on, as its file says. Studies do it by themselves before they
    train; done before, it takes no time of the GPUs.
    """
    from rich.console import Console

    from acsearch.config.study_file import load_study
    from acsearch.runners.assets import StudyAssets
    from acsearch.storage.home import Home
    from trainers.data.index import problems
    from trainers.data.samples import read_samples
    from trainers.model.loading import load_tokenizer

    home = Home()
    folder = home.work / "index"
    with Console(stderr=True).status("indexing") as status:
        if llm is None:
            config = load_study(source)
            if config.file.training is None:
                raise ConfigError(f"study {config.file.name!r} looks its finetunes up in a table; it has no samples")
            assets = StudyAssets(config.file.training, config.path.parent, home.work)
            for samples in assets.all_samples(folder, status.update):
                _describe(samples)
                if samples.dropped:
                    left = problems(samples.dropped, len(samples), samples.source.manifest)
                    echo(f"  left out: {left}; all are in {samples.folder / 'dropped.json'}")
            return
        words, manifest = load_tokenizer(llm), Path(source)
        samples = read_samples(
            manifest, images, template=template, tokenizer=words, folder=folder, drop=1.0, report=status.update
        )
    _describe(samples)
    if idle := samples.idle(image_tokens, longest):
        echo(f"{idle:,} have no supervised token within {longest:,} positions")
    if samples.dropped:
        raise DataError(problems(samples.dropped, len(samples), manifest))


def _describe(samples: Samples) -> None:
    counts = f"{len(samples):,} samples, {samples.with_image.sum():,} with an image"
    tokens = f"{samples.text_tokens:,} text tokens, {samples.supervised_tokens:,} supervised"
    echo(f"{samples.source.manifest}: {counts}, {tokens}")


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
    with_image = [number for number, row in enumerate(rows) if rows.visuals(number, row)]
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
