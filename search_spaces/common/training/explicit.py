"""Operations that have another form in a reduced number format on a CPU, where PyTorch's own is slow there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from naslab.search_spaces.common.training.explicit_attention import explicit_attention, suits_attention
from naslab.search_spaces.common.training.explicit_convolution import explicit_convolution, suits_convolution

FORMS: Mapping[Callable[..., Any], tuple[Callable[..., bool], Callable[..., Any]]] = {
    F.scaled_dot_product_attention: (suits_attention, explicit_attention),
    F.conv2d: (suits_convolution, explicit_convolution),
}
"""By operation, as it was when this was imported (counters put entries of their own in its place): which of its calls
another form suits, and that form."""


class ExplicitForms(TorchFunctionMode):
    """Within it, calls of these operations that suit are answered by the other form, whoever asks PyTorch for them."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in FORMS and not types:  # tensors of other kinds have forms of their own
            suits, form = FORMS[func]
            if suits(*args, **kwargs):
                return form(*args, **kwargs)
        return func(*args, **kwargs)
