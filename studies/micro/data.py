"""What the study file's `prepare` calls: the world's data set, from a seed."""

from __future__ import annotations

from pathlib import Path

from studies.micro.world import Sizes, build
from trainers.errors import ConfigError
from trainers.utils.progress import CountCallback


def prepare(folder: Path, *, seed: int, sizes: dict[str, int], progress: CountCallback | None = None) -> None:
    """Write the data set, unless it is there. Raises ConfigError for a size that there is not."""
    try:
        chosen = Sizes(**sizes)
    except TypeError as error:
        raise ConfigError(f"prepare: sizes {sizes}: there are {', '.join(Sizes.__dataclass_fields__)}") from error
    build(folder, seed=seed, sizes=chosen, progress=progress)
