"""Priors of the Bayesian law as YAML files."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import Field, ValidationError, model_validator

from acsearch.config.table_file import exists_as
from acsearch.law.features import FULL, parse_terms
from acsearch.law.prior import Prior
from trainers.errors import ConfigError
from trainers.utils.strict_yaml import StrictModel, first_problem, read_yaml

Size = Annotated[float, Field(ge=1e-4, le=1000)]  # in units of a benchmark's scale; beyond, matrices get singular


class PriorFile(StrictModel, strict=True):
    """The keys of a prior's YAML file; `acsearch.law.prior.Prior` says what they mean."""

    provenance: str = Field(min_length=1)
    alignment: list[str] = Field(min_length=1)
    correspondence: list[str] = Field(min_length=1)
    mean: dict[str, Annotated[float, Field(ge=-1000, le=1000)]]
    sd: dict[str, Size]
    term_sets: dict[str, Size] = Field(min_length=1)
    sharing: list[Annotated[float, Field(gt=0, lt=1)]] = Field(min_length=1, max_length=20)
    misfit: list[Size] = Field(min_length=1, max_length=20)
    correlation: list[Annotated[float, Field(ge=0, le=0.999)]] = Field(min_length=1, max_length=20)
    noise: Size
    shape: float = Field(gt=1, le=1e6)
    rate: float = Field(ge=1e-6, le=1e6)
    scale_median: Size
    scale_spread: Size

    @model_validator(mode="after")
    def _every_term(self) -> PriorFile:
        for key, given in (("mean", self.mean), ("sd", self.sd)):
            if set(given) != set(FULL):
                raise ValueError(f"{key} must give exactly {', '.join(FULL)}, not {', '.join(given) or 'nothing'}")
        return self

    @model_validator(mode="after")
    def _known_terms(self) -> PriorFile:
        for terms in self.term_sets:
            unknown = set(terms.split("+")) - {*FULL}
            if unknown and terms != "full":
                raise ValueError(
                    f"term_sets: no term {min(unknown)!r} in {terms!r}; join {', '.join(FULL)} by +, or 'full' for all"
                )
        return self


def priors() -> dict[str, Path]:
    """The priors that ship with acsearch, by name."""
    return {path.stem: path for path in sorted(Path(str(resources.files("acsearch.law"))).glob("priors/*.yaml"))}


def load_prior(prior: str) -> Prior:
    """Read a prior.

    Args:
        prior: Name of a prior that ships with acsearch, or path of a YAML file.

    Raises:
        ConfigError: there is no such prior, or the file is not one.
    """
    path = priors().get(prior, Path(prior))
    if not exists_as(Path.is_file, path):
        raise ConfigError(f"no prior {prior!r}: neither a file that exists nor one of {', '.join(priors())}")
    file = read_yaml(path, PriorFile)
    return Prior(
        name=path.stem,
        provenance=file.provenance,
        alignment=tuple(file.alignment),
        correspondence=tuple(file.correspondence),
        mean=tuple(file.mean[term] for term in FULL),
        sd=tuple(file.sd[term] for term in FULL),
        term_sets=tuple((parse_terms(terms), weight) for terms, weight in file.term_sets.items()),
        sharing=tuple(file.sharing),
        misfit=tuple(file.misfit),
        correlation=tuple(file.correlation),
        noise=file.noise,
        shape=file.shape,
        rate=file.rate,
        scale_median=file.scale_median,
        scale_spread=file.scale_spread,
    )


def prior_text(prior: Prior) -> str:
    """A prior as the text of a YAML file that `load_prior` reads.

    Raises:
        ConfigError: a value of the prior is out of range.
    """
    data = {
        "provenance": prior.provenance,
        "alignment": list(prior.alignment),
        "correspondence": list(prior.correspondence),
        "mean": dict(zip(FULL, prior.mean, strict=True)),
        "sd": dict(zip(FULL, prior.sd, strict=True)),
        "term_sets": {"+".join(terms): weight for terms, weight in prior.term_sets},
        "sharing": list(prior.sharing),
        "misfit": list(prior.misfit),
        "correlation": list(prior.correlation),
        "noise": prior.noise,
        "shape": prior.shape,
        "rate": prior.rate,
        "scale_median": prior.scale_median,
        "scale_spread": prior.scale_spread,
    }
    try:
        PriorFile.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"not a usable prior: {first_problem(error, PriorFile)}") from error
    return yaml.safe_dump(data, sort_keys=False)
