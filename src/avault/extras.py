"""What needs packages that avault does without: src/avault_extras/, installed as avault_extras.

Such a file is taken from beside this very one, or from the checkout that this one is of: no other
version's is.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import TYPE_CHECKING

from avault.errors import Unavailable

if TYPE_CHECKING:
    from typing import Any


def load_extra(name: str, extra: str = "") -> Any:
    """A module of avault_extras; raises Unavailable without it, or a package of its `extra`."""
    hint = f"in avault's folder: pip install '.[{extra or name}]'"
    here = os.path.dirname(os.path.realpath(__file__))
    paths = [
        os.path.join(here, *place, f"{name}.py")
        for place in (["avault_extras"], ["src", "avault_extras"])
    ]
    path = next(filter(os.path.isfile, paths), None)
    if not path:
        raise Unavailable(
            f"avault_extras/{name}.py is not beside {os.path.join(here, 'avault.py')}", hint
        )
    sys.modules.setdefault(
        "avault", sys.modules[__name__]
    )  # this very file, when it is run by its path
    spec = importlib.util.spec_from_file_location(f"avault_extras.{name}", path)
    if not spec or not spec.loader:
        raise AssertionError("unreachable")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ModuleNotFoundError as error:
        if not extra:
            raise
        raise Unavailable(f"the package {error.name} is not installed", hint) from None
    return module
