"""What differs between versions of Triton."""

import numpy as np


def version(text):
    return tuple(int(part) for part in text.split(".")[:2])


def interpreter_fails():
    """Why Triton's interpreter cannot run here; None where it can."""
    import triton

    if version(triton.__version__) < (3, 7) and version(np.__version__) >= (2, 4):
        return f"Triton {triton.__version__} interprets arrays as numbers, which NumPy {np.__version__} refuses"
    return None
