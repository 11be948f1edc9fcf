import os

import pytest
import torch
from torch.utils import deterministic

os.environ.setdefault("NASLAB_CXXFLAGS", "-Wall -Wextra -Werror -Wno-unknown-pragmas -Wno-unused-parameter")


@pytest.fixture
def nan_filled():
    """Deterministic algorithms only, and every new tensor full of NaN: a corner left unwritten shows."""
    assert deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
