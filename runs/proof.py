"""Verifies that an exported folder gives back the trained model: same input, new process, same bits.

`python -m naslab.runs.proof FOLDER INPUT OUTPUT` is what the new process runs: it knows the folder and nothing else.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import safetensors.torch
import torch
from torch import nn

from naslab.efficiency.inputs import Inputs, map_tensors
from naslab.errors import NaslabError
from naslab.runs.architecture import outputs, rebuild

SINGLE = ""
"""Name in the file of an input that is one tensor."""


class ProofFailed(NaslabError):
    """The rebuilt model is not the one that was trained; nothing is exported."""


def prove(original: nn.Module, folder: Path, inputs: Inputs) -> None:
    """Compare `original` with the model that a new process rebuilds from `folder`, bit for bit, on the CPU.

    Both get the same memory layout, contiguous: another one may round otherwise (transposed images by 3e-8).

    Raises:
        ProofFailed: an output differs in shape, type or any bit, or the folder cannot be rebuilt.
    """
    # Each with memory of its own, as safetensors writes no tensor twice.
    inputs = map_tensors(lambda tensor: tensor.clone(memory_format=torch.contiguous_format), inputs)
    expected = outputs(original, inputs)
    if not expected:
        raise ProofFailed(f"{folder.name}: the model returns no tensor, so its export cannot be proved")
    with tempfile.TemporaryDirectory() as scratch:
        given, answer = Path(scratch, "input.safetensors"), Path(scratch, "output.safetensors")
        safetensors.torch.save_file(_named(inputs), given)
        _in_new_process(folder, given, answer)
        found = safetensors.torch.load_file(answer)
    if found.keys() != expected.keys():
        raise ProofFailed(f"{folder.name}: rebuilt, it returns {len(found)} tensors, not {len(expected)}")
    for name, tensor in expected.items():
        if not _same_bits(tensor, found[name]):
            raise ProofFailed(f"{folder.name}: output {name} of the rebuilt model differs from the trained one's")


def _named(inputs: Inputs) -> dict[str, torch.Tensor]:
    if isinstance(inputs, tuple):
        raise ProofFailed("an example input of several tensors must name them: give a mapping")
    return {SINGLE: inputs} if isinstance(inputs, torch.Tensor) else dict(inputs)


def _in_new_process(folder: Path, given: Path, answer: Path) -> None:
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, "-m", "naslab.runs.proof", str(folder), str(given), str(answer)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | threads, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ProofFailed(f"{folder.name}: cannot be rebuilt in a new process: {last}")


def _same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    alike = a.shape == b.shape and a.dtype == b.dtype
    return alike and torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))


def main(folder: str, given: str, answer: str) -> None:
    """Rebuild `folder`, run it on the tensor in `given` and write what it returns to `answer`."""
    # A file's tensors lie where they lie in it; where memory begins, some processors round products otherwise.
    tensors = {name: tensor.clone() for name, tensor in safetensors.torch.load_file(given).items()}
    inputs = tensors.get(SINGLE, tensors)
    safetensors.torch.save_file(outputs(rebuild(folder), inputs), answer)


if __name__ == "__main__":
    main(*sys.argv[1:])
