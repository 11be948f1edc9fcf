"""naslab: which architecture or training recipe is worth its GPU hours.

The one import name of the project. The five layers (`naslab.kernels`, `naslab.efficiency`, `naslab.search_spaces`,
`naslab.nas`, `naslab.runs`) are folders at the repository's top level, linked here; an installed wheel holds them as
ordinary packages. What a notebook needs is handed out here, and imported only when it is asked for: `import naslab`
itself loads neither torch nor pandas.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from naslab.efficiency import profile
    from naslab.runs.api import compare, export, rank, run
    from naslab.runs.architecture import rebuild
    from naslab.runs.function_study import Float, Integer, search
    from naslab.runs.study import Study
    from naslab.search_spaces import find_space
    from naslab.search_spaces.altup.stack import AltUpStack
    from naslab.search_spaces.common.modules.tokens import sparsify

__all__ = [
    "AltUpStack",
    "Float",
    "Integer",
    "Study",
    "compare",
    "export",
    "find_space",
    "profile",
    "rank",
    "rebuild",
    "run",
    "search",
    "sparsify",
]

_ORIGIN = {
    "AltUpStack": "naslab.search_spaces.altup.stack",
    "Float": "naslab.runs.function_study",
    "Integer": "naslab.runs.function_study",
    "Study": "naslab.runs.study",
    "compare": "naslab.runs.api",
    "export": "naslab.runs.api",
    "find_space": "naslab.search_spaces",
    "profile": "naslab.efficiency",
    "rank": "naslab.runs.api",
    "rebuild": "naslab.runs.architecture",
    "run": "naslab.runs.api",
    "search": "naslab.runs.function_study",
    "sparsify": "naslab.search_spaces.common.modules.tokens",
}
"""The module of each public name."""


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("naslab.version").naslab_version()
    if name not in _ORIGIN:
        raise AttributeError(f"module 'naslab' has no attribute {name!r}")
    value = getattr(import_module(_ORIGIN[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
