"""Compile kernels for GPUs that are not there and read from the machine code what they take."""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

TARGETS = ("sm_80", "sm_90", "sm_100", "gfx942")
DIVISIBLE = {"width", "row_stride", "batch_stride", "head_stride", "token_stride", "share"}
"""Integers that are multiples of 16 at the usual sizes: a launch tells Triton, which then makes other code."""


@dataclass(frozen=True)
class Binary:
    """Per thread: registers, and bytes (NVIDIA) or registers (AMD) that went to memory; shared bytes per program."""

    registers: int
    spills: int
    shared_bytes: int


def compiled(kernel, pointers, integers=(), floats=(), num_warps=4, target="sm_90", **constants):
    """Compile with pointers {argument: "bf16"}; `integers` and `floats` name the other runtime arguments."""
    import triton

    source, gpu = _source(kernel, pointers, integers, floats, constants), _gpu(target)
    made = triton.compile(source, target=gpu, options={"num_warps": num_warps})
    return _amd(made) if gpu.backend == "hip" else _nvidia(made)


def parse(kernel, pointers, integers=(), floats=(), target="sm_90", **constants):
    """The front end alone, which is where the types of Python meet Triton's: a hundred times faster.

    An integer of `integers` that stands in `constants` is that constant, as Triton makes it of arguments that are 1.
    """
    from triton._C.libtriton import ir
    from triton.compiler.compiler import make_backend

    integers = [name for name in integers if name not in constants]
    source, gpu = _source(kernel, pointers, integers, floats, constants), _gpu(target)
    backend, context = make_backend(gpu), ir.context()
    ir.load_dialects(context)
    backend.load_dialects(context)
    options = backend.parse_options(source.parse_options())
    source.make_ir(gpu, options, backend.get_codegen_implementation(options), backend.get_module_map(), context)


def _gpu(target):
    from triton.backends.compiler import GPUTarget

    return GPUTarget("hip", target, 64) if target.startswith("gfx") else GPUTarget("cuda", int(target[3:]), 32)


def _source(kernel, pointers, integers, floats, constants):
    from triton.compiler import ASTSource

    signature, attributes = {}, {}
    for position, name in enumerate(kernel.jitted.arg_names):
        if name in pointers:
            signature[name] = f"*{pointers[name]}"
            attributes[(position,)] = [["tt.divisibility", 16]]
        else:
            if name in DIVISIBLE and name in integers:
                attributes[(position,)] = [["tt.divisibility", 16]]
            signature[name] = "i32" if name in integers else "fp32" if name in floats else "constexpr"
    values = {(kernel.jitted.arg_names.index(name),): value for name, value in constants.items()}
    return ASTSource(kernel.jitted, signature, values, attributes)


def _amd(made):
    def field(name):
        return int(re.search(rf"\.{name}:\s+(\d+)", made.asm["amdgcn"])[1])

    return Binary(field("vgpr_count"), field("vgpr_spill_count"), made.metadata.shared)


def _nvidia(made):
    import tempfile

    import triton

    cuobjdump = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        usage = subprocess.run([cuobjdump, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    registers, stack, local = (int(re.search(rf"{name}:(\d+)", usage)[1]) for name in ("REG", "STACK", "LOCAL"))
    return Binary(registers, stack + local, made.metadata.shared)  # spilled registers stand on the stack
