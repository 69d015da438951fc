"""Build the model of a job, and load the model of a committed result."""

from __future__ import annotations

from collections.abc import Sequence, Set
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from safetensors import SafetensorError
from safetensors.torch import load_file

from trainers.checkpoints.commit import verify
from trainers.connectors.branches import make_branches
from trainers.data.templates import Tokenizer
from trainers.encoders.joined import build_representation
from trainers.encoders.registry import load_registry
from trainers.errors import TrainingError, WeightsError, first_line
from trainers.fusions import make_fusion
from trainers.job import Parts, Tune
from trainers.model.multimodal import MultimodalModel
from trainers.model.precision import PartTypes
from trainers.pretrained.configuration import make_config, parse_configuration
from trainers.pretrained.files import Pretrained, read_files
from trainers.pretrained.hub import Snapshot, fetch
from trainers.pretrained.tensors import check_finite, check_fits
from trainers.representation import Choice, parse

WEIGHTS, MODEL, METRICS = "weights.safetensors", "model.json", "metrics.json"

# The files of a language model
_CONFIG, _WEIGHTS = "config.json", ("model.safetensors", "model.safetensors.index.json")
_TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "tokenizer.model",
    "spiece.model",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
)


def build_model(
    parts: Parts, device: str | torch.device = "cpu", types: PartTypes | torch.dtype = torch.float32
) -> MultimodalModel:
    """Build a model of pretrained parts and a new connector, which is equal for equal widths and seeds.

    Args:
        parts: what the model is made of.
        device: where it computes.
        types: of its weights, one for all or for each part.

    Raises:
        TrainingError: the language model cannot be loaded.
        SpaceError: the representation cannot be read, or an encoder cannot be built.
        ConfigError: a registry file cannot be used.
    """
    representation, place = parse(parts.representation, Choice(parts.resize)), torch.device(device)
    kept = PartTypes(types, types, types) if isinstance(types, torch.dtype) else types
    with torch.random.fork_rng(devices=[]):  # libraries draw weights before they load them
        vision = build_representation(representation, load_registry(*parts.encoders), device=place, dtype=kept.vision)
        llm, tokenizer = load_llm(parts.llm, kept.llm, place)
    width = llm.get_input_embeddings().embedding_dim
    connector = make_branches(
        representation.connector, vision.framing, vision.joining, vision.shapes, width, parts.seed
    ).to(kept.connector)
    fusion = make_fusion(representation.fusion).to(kept.connector)
    return MultimodalModel(vision, connector, llm, tokenizer, parts.template, fusion).to(place)


def load_llm(
    name: str, dtype: torch.dtype = torch.float32, device: torch.device | None = None
) -> tuple[Any, Tokenizer]:
    """Load a causal language model and its fast tokenizer; safetensors only, no remote code.

    The libraries are shown its files alone (see `trainers.pretrained`). Of its generation settings only the tokens that
    end a text are kept: we generate greedily.

    Args:
        name: a folder, or a hub id, which "@" and a revision may follow.
        dtype: its precision.
        device: a GPU to which each weight is read from the mapped file, so that host memory holds no copy of them for
            every process; any other device is the caller's to move it to.

    Raises:
        TrainingError: it cannot be loaded, or its weights are not whole.
    """
    from transformers import AutoModelForCausalLM, GenerationConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    talkative = logging.get_verbosity()
    logging.set_verbosity_error()  # its report of what does not fit becomes our error
    try:
        files = _read_files(name, (_CONFIG, "generation_config.json", *_TOKENIZER), _WEIGHTS)
        config = _config(files)
        check_fits(llm_shape(config), files.size)
        with files.private_folder() as folder:
            llm, report = AutoModelForCausalLM.from_pretrained(
                folder,
                config=config,
                dtype=dtype,
                device_map={"": device} if device is not None and device.type == "cuda" else None,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
            )
            tokenizer = _tokenizer(files, folder)
        check_finite(llm)
    except Exception as error:  # whatever transformers runs into with a configuration that it does not expect
        raise _unavailable(name, error) from error
    finally:
        logging.set_verbosity(talkative)
    if missing := report["missing_keys"]:  # transformers would have them start at random
        raise TrainingError(
            f"language model {name}: its weights are not whole: {len(missing)} are missing, such as {min(missing)}"
        )
    llm.generation_config = GenerationConfig(eos_token_id=llm.generation_config.eos_token_id)
    return llm, tokenizer


def load_tokenizer(name: str) -> Tokenizer:
    """Load the fast tokenizer of a language model.

    tokenizer.json is taken as it is: AutoTokenizer would build what a model's type usually has, whatever the file says.

    Args:
        name: a folder, or a hub id, which "@" and a revision may follow.

    Raises:
        TrainingError: it cannot be loaded.
    """
    try:
        files = _read_files(name, (_CONFIG, *_TOKENIZER))
        with files.private_folder() as folder:
            return _tokenizer(files, folder)
    except Exception as error:  # the tokenizers library raises plain Exceptions for what it cannot read
        raise _unavailable(name, error) from error


def llm_config(name: str) -> Any:
    """The configuration of a language model that is here, in a folder or the cache of the hub.

    Args:
        name: a folder, or a hub id, which "@" and a revision may follow.

    Raises:
        TrainingError: it is not here, or cannot be used.
    """
    try:
        return _config(_read_files(name, (_CONFIG,), local=True))
    except Exception as error:  # as above
        raise _unavailable(name, error) from error


def llm_shape(config: Any) -> Any:
    """A causal language model on the meta device, without weights."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def pin_llm(name: str) -> str:
    """The name by which a language model of the hub stays what it is now, wherever its branch goes: "id@commit".

    Args:
        name: a hub id, which "@" and a revision may follow.

    Raises:
        TrainingError: it cannot be had.
    """
    try:
        return f"{name.partition('@')[0]}@{_snapshot(name, (_CONFIG,)).commit}"
    except Exception as error:  # as above
        raise _unavailable(name, error) from error


def identify_llm(name: str) -> str:
    """What stands for the weights of a language model of the hub, which are fetched.

    Args:
        name: as `pin_llm` gives it.

    Raises:
        TrainingError: they cannot be had.
    """
    try:
        return _snapshot(name, (_CONFIG,), _WEIGHTS).identity(name.partition("@")[0])
    except Exception as error:  # as above
        raise _unavailable(name, error) from error


def _snapshot(name: str, texts: Sequence[str], weights: Sequence[str] = (), *, local: bool = False) -> Snapshot:
    repository, _, revision = name.partition("@")
    try:
        return fetch(repository, revision or None, texts, weights, local=local)
    except WeightsError as error:
        raise WeightsError(f"{error}; give a hub id or a folder") from error


def _read_files(name: str, texts: Sequence[str], weights: Sequence[str] = (), *, local: bool = False) -> Pretrained:
    folder = Path(name)
    if folder.is_dir():
        files = read_files(folder, texts, weights)
    else:
        files = _snapshot(name, texts, weights, local=local).files
    for text in (_CONFIG, "tokenizer_config.json"):
        try:
            parse_configuration(files.texts.get(text, b"{}"), sizes=text == _CONFIG)
        except WeightsError as error:
            raise WeightsError(f"cannot be used: {text}: {error}") from error
    return files


def _config(files: Pretrained) -> Any:
    if _CONFIG not in files.texts:
        raise WeightsError(f"come without {_CONFIG}")
    return make_config(parse_configuration(files.texts[_CONFIG]))


def _tokenizer(files: Pretrained, folder: Path) -> Tokenizer:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    # older models come with sentencepiece's file alone
    kind: Any = PreTrainedTokenizerFast if "tokenizer.json" in files.texts else AutoTokenizer
    found: Tokenizer = kind.from_pretrained(folder, use_fast=True, trust_remote_code=False, local_files_only=True)
    return found


def _unavailable(name: str, error: Exception) -> TrainingError:
    if isinstance(error, WeightsError):
        return TrainingError(f"language model {name}: its weights {error}")
    reason = first_line(error)
    return TrainingError(f"language model {name}: cannot be loaded: {reason}; give a hub id or a folder")


def load_model(
    folder: Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32, *, check: bool = True
) -> MultimodalModel:
    """Load the model of a stage's committed result, ready for evaluation.

    Args:
        folder: the result.
        device: where the model computes.
        dtype: its precision.
        check: whether files are compared with their digests first; one of several processes is enough.

    Raises:
        TrainingError: the folder is no result, or is broken.
    """
    if check:
        verify(folder)
    model = build_model(_about(folder)[0], device, dtype)
    restore(model, folder, check=False)
    return model.eval()


def restore(model: MultimodalModel, folder: Path, *, check: bool = True) -> dict[str, torch.Tensor]:
    """Give a newly built model the weights of a committed result, with LoRA merged into them.

    Args:
        model: as `build_model` made it.
        folder: the result.
        check: whether files are compared with their digests first.

    Returns:
        The weights, by name, that differ from those of the pretrained parts. The result of a next stage must hold them
        too.

    Raises:
        TrainingError: the result is broken, or is that of other parts.
    """
    if check:
        verify(folder)
    _, table = _about(folder)
    weights = load_weights(folder)
    plain = set(weights) & {name for name, _ in model.named_parameters()}
    model.load_trainable({name: weights[name] for name in plain}, folder)
    model.tune(table, seed=0)
    model.load_trainable({name: weight for name, weight in weights.items() if name not in plain}, folder)
    missing = set(model.trainable()) - set(weights)
    if missing:
        raise TrainingError(f"{folder}: of another model: {len(missing)} weights are missing, such as {min(missing)}")
    changed = plain | model.merge()
    return {name: weight for name, weight in model.named_parameters() if name in changed}


def parts_of(folder: Path) -> Parts:
    """What the model of a committed result is made of.

    Raises:
        TrainingError: the folder is no result, or is broken.
    """
    verify(folder)
    return _about(folder)[0]


def _about(folder: Path) -> tuple[Parts, dict[str, Tune]]:
    """What a result's model is made of, and which parts of it were trained."""
    try:
        about = _About.model_validate_json((folder / MODEL).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TrainingError(f"{folder}: no trained model: {MODEL}: {error}") from error
    return about.parts, about.train


class _About(BaseModel):
    """Of a result's model.json, what it takes to build the model again."""

    parts: Parts
    train: dict[str, Tune]


def load_weights(folder: Path, needed: Set[str] = frozenset()) -> dict[str, torch.Tensor]:
    """Read the weights in a committed folder.

    Args:
        folder: a result or a checkpoint.
        needed: names that must be among them.

    Returns:
        The weights by name.

    Raises:
        TrainingError: they cannot be read, or one is missing.
    """
    try:
        weights: dict[str, torch.Tensor] = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise TrainingError(f"{folder / WEIGHTS}: cannot be read: {error}") from error
    if missing := needed - weights.keys():
        raise TrainingError(f"{folder}: of another model: {len(missing)} weights are missing, such as {min(missing)}")
    return weights
