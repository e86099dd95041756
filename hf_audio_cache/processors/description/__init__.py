"""One canonical description of live objects: values, and the code that they bring with them.

They are a graph. An object is its class and what its pickling hooks say of it; a function its code, defaults, closure,
attributes and the globals that its bytecode loads; a class or a module its members. What a library has under its name
is that name. Nodes that say the same are one: which of them are shared, or came by pickle, makes no difference. All
that was seen is noted in a `Watch`.
"""

from __future__ import annotations

from . import classes, functions, modules, objects, values  # noqa: F401 - each registers the forms of its types
from .describer import Describer

__all__ = ["Describer"]
