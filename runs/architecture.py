"""An exported architecture on disk: one folder from which the trained model is rebuilt, anywhere.

architecture.json   space with every option, configuration, scores, where they came from (naslab.architecture/1), and
                    the configurations of pre-trained networks that the space names by their folders
architecture.yaml   the same for people
model.safetensors   weights
drawing.svg         where the space draws its configurations
README.md           how to load it
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn

from naslab.efficiency.inputs import Inputs, call_model
from naslab.errors import InputError
from naslab.search_spaces import Network, Options, SearchSpace, find_space
from naslab.search_spaces.data.packages import model_folder, without_weights

SCHEMA = "naslab.architecture/1"
DOCUMENT, WEIGHTS = "architecture.json", "model.safetensors"
NETWORK = "config.json"
"""What transformers calls the configuration in a network's folder."""


def rebuild(folder: str | Path) -> nn.Module:
    """The exported model with its trained weights, on the CPU, in evaluation mode.

    Args:
        folder: as written by `naslab export`.

    Raises:
        InputError: a file is missing, damaged, of another version, or does not belong to the others.
    """
    folder = Path(folder)
    document = read_document(folder)
    path = folder / WEIGHTS
    if file_digest(path) != document["weights_sha256"]:
        raise InputError(f"{path}: damaged: it is not the file that {DOCUMENT} was written with; export again")
    with _options(document) as options:
        space = find_space(document["space"]["name"], None, options, recorded=True)
        return load_model(space, document["configuration"], path)


def networks_of(options: Options) -> dict[str, Any]:
    """The configurations of pre-trained networks whose folders the options name: without them no model is rebuilt."""
    fields = type(options).model_fields.items()
    marked = [name for name, field in fields if any(isinstance(mark, Network) for mark in field.metadata)]
    named = ((option, value) for option in marked if (value := getattr(options, option)))
    files = ((option, Path(model_folder(value)) / NETWORK) for option, value in named)
    return {option: json.loads(file.read_text(encoding="utf-8")) for option, file in files if file.is_file()}


@contextmanager
def _options(document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The space's options, in which pre-trained networks are as the export kept them: configurations without weights.

    These are all in the export; the folder that the study named may be gone.
    """
    with TemporaryDirectory(prefix="naslab-networks-") as scratch, without_weights():
        options = dict(document["space"]["options"])
        for number, (option, config) in enumerate(document.get("networks", {}).items()):
            folder = Path(scratch, str(number))
            folder.mkdir()
            (folder / NETWORK).write_text(json.dumps(config), encoding="utf-8")
            options[option] = str(folder)
        yield options


def load_model(space: SearchSpace, configuration: dict[str, Any], weights: Path) -> nn.Module:
    """Build `configuration` and load `weights` into it, in evaluation mode.

    Raises:
        InputError: the weights cannot be read or are of another architecture.
    """
    try:
        found = space.configuration(configuration)
    except InputError as error:
        raise InputError(f"space {space.name} no longer has this configuration: {error}") from None
    model = space.build(found)
    try:
        model.load_state_dict(safetensors.torch.load_file(weights))
    except FileNotFoundError:
        raise InputError(f"{weights}: no such file; it holds the weights") from None
    except (OSError, SafetensorError) as error:
        raise InputError(f"{weights}: damaged or unreadable: {error}") from None
    except RuntimeError as error:
        problem = str(error).strip().splitlines()[-1].strip()
        raise InputError(f"{weights}: weights of another architecture: {problem}") from None
    return model.eval()


def read_document(folder: Path) -> dict[str, Any]:
    """The checked contents of `architecture.json`.

    Raises:
        InputError: missing, not JSON, of another version, or without a key that rebuilding needs.
    """
    path = folder / DOCUMENT
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; give a folder written by naslab export") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: damaged or unreadable: {error}") from None
    schema = document.get("schema") if isinstance(document, dict) else None
    if schema != SCHEMA:
        raise InputError(f"{path}: has schema {schema!r}; this version reads {SCHEMA!r}")
    for key, kind in (("space", dict), ("configuration", dict), ("weights_sha256", str)):
        if not isinstance(document.get(key), kind):
            raise InputError(f"{path}: damaged: {key!r} is missing or of the wrong type")
    if not isinstance(document.get("networks", {}), dict):
        raise InputError(f"{path}: damaged: 'networks' is of the wrong type")
    if not {"name", "options"} <= document["space"].keys():
        raise InputError(f"{path}: damaged: 'space' needs 'name' and 'options'")
    return dict(document)


def file_digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal.

    Raises:
        InputError: the file is missing or unreadable.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None


def outputs(model: nn.Module, inputs: Inputs) -> dict[str, torch.Tensor]:
    """Every tensor that the model returns for `inputs`, by position, without gradients.

    Each has memory of its own: safetensors writes no tensor twice, and a loss of one part is that part.
    """
    with torch.no_grad():
        leaves = torch.utils._pytree.tree_leaves(call_model(model.eval(), inputs))
    return {
        str(i): leaf.clone(memory_format=torch.contiguous_format)
        for i, leaf in enumerate(leaves)
        if isinstance(leaf, torch.Tensor)
    }
