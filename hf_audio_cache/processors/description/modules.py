"""Modules: of one's own all code, and the values that code uses."""

from __future__ import annotations

import re
import types
from typing import Any

from ..code import read_code
from ..ownership import Owner
from ..watch import dict_of, of_class, of_function
from .describer import At, Describer, form, module_of
from .graph import Node, Ref

OF_MODULES = re.compile(r"__(name|file|path|spec|loader|package|doc|cached|builtins|annotations)__")


@form(types.ModuleType, derived=True)
def _module(describer: Describer, module: types.ModuleType, at: At) -> Any:
    name, kind = module_of(module), type(module)
    if describer.is_library(name):
        return {"module": name}
    if kind is not types.ModuleType and describer.owner(kind) is Owner.OWN:  # what it gives may be any of its globals
        describer.uses.whole.add(id(dict_of(module)))
    said = namespace(describer, dict_of(module), name)
    return said if kind is types.ModuleType else {"module": said, "class": describer.value(kind, At(name))}


def namespace(describer: Describer, named: dict[str, Any], name: str) -> Ref:
    """Describe the globals of a module."""
    label = "module" if describer.owner_of_module(name) is Owner.OWN else name
    return describer.node(named, label, label, _describe_module)


def _describe_module(describer: Describer, node: Node) -> dict[str, Any]:
    """Describe a module of one's own: all its code, and what is used; of transformers', what is named."""
    named, is_own, uses = node.value, node.label == "module", describer.uses
    if is_own:
        describer.watch.see(named, tuple)
    is_whole = is_own and not uses.whole.isdisjoint({0, id(named)})
    members, code = {}, {}
    for name, value in list(named.items()):
        is_code = is_own and issubclass(type(value), (type, types.FunctionType)) and describer.owner(value) is Owner.OWN
        is_other = isinstance(value, types.ModuleType) or describer.is_named(value)
        is_named = name in uses.names and (is_own or not is_other)
        if (is_named or (is_whole and not name.startswith("__"))) and not OF_MODULES.fullmatch(name):
            describer.is_certain = node.is_certain and is_named
            members[name] = describer.value(describer.watch.look_up(named, name), At(f"{node.label}.{name}"))
        elif is_code:
            code[name] = _code_alone(describer, describer.watch.look_up(named, name))
    return {"members": members, "code": code, **(describer.order(members) if is_whole else {})}


def _code_alone(describer: Describer, value: Any) -> Any:
    if isinstance(value, types.FunctionType):
        describer.watch.see(value, of_function)
        return read_code(value.__code__).digest
    describer.watch.see(value, of_class)
    members = {name: getattr(member, "__func__", member) for name, member in vars(value).items()}
    return {
        n: _code_alone(describer, member) for n, member in members.items() if isinstance(member, types.FunctionType)
    }
