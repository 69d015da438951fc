"""Make the data set of the world: the function that the study file's `prepare` calls."""

from __future__ import annotations

from pathlib import Path

from studies.micro.world import Sizes, build
from trainers.errors import ConfigError
from trainers.utils.progress import CountCallback


def prepare(folder: Path, *, seed: int, sizes: dict[str, int], progress: CountCallback | None = None) -> None:
    """Write the data set, unless it is there.

    Args:
        folder: where it is written.
        seed: of the world.
        sizes: fields of `Sizes` that differ from the default.
        progress: is called with how many images are done.

    Raises:
        ConfigError: there is no such size.
    """
    try:
        chosen = Sizes(**sizes)
    except TypeError as error:
        raise ConfigError(f"prepare: sizes {sizes}: there are {', '.join(Sizes.__dataclass_fields__)}") from error
    build(folder, seed=seed, sizes=chosen, progress=progress)
