"""Classes: of one's own all members, of transformers' those that a call may reach."""

from __future__ import annotations

import contextlib
import re
import types
from abc import ABCMeta
from enum import Enum
from typing import Any

from ..ownership import Owner, label_of
from ..watch import attributes_of, of_class, of_registered
from .describer import SHARED, At, Describer, form, module_of
from .functions import written
from .graph import Node
from .values import unordered

# Members of a class that say how it was written, or that Python, abc, torch and others keep there for themselves.
_NOT_MEANT = re.compile(
    r"__(dict|weakref|doc|module|qualname|annotations|annotate|annotate_func|annotations_cache|conditional_annotations"
    r"|firstlineno|static_attributes|slotnames|abstractmethods|parameters|type_params|signature"
    r"|struct_config|pydantic_(?!fields__).*)__|_abc_impl|_autograd_function_id"
)
# What `enum` keeps for itself in a class and its members.
_OF_ENUMS = re.compile(r"_(?!(?:value|boundary)_$)[a-z]\w*_|__objclass__")
# What runs when an object is made; and methods by syntax that only show, keep or derive one.
_MAKING = ("__new__", "__init__", "__post_init__")
_NO_OPERATION = re.compile(
    r"__(repr|dir|sizeof|del|reduce|reduce_ex|getstate|setstate|getnewargs|getnewargs_ex|init_subclass|class_getitem"
    r"|set_name)__"
)


@form(type, derived=True)
def _class(describer: Describer, value: type, at: At) -> Any:
    owner = describer.owner(value)
    if owner is Owner.LIBRARY:
        describer.uses_torch |= module_of(value).partition(".")[0] == "torch"
        return {"library": label_of(value, owner)}
    return describer.node(value, label_of(value, owner), at.path, _describe_class)


def _describe_class(describer: Describer, node: Node) -> dict[str, Any]:
    """Describe a class: of one's own all its members, of transformers' those that a call may reach."""
    kind, owner = node.value, describer.owner(node.value)
    describer.watch.see(kind, of_class)
    content: dict[str, Any] = {"parents": describer.items(kind.__bases__, node.label)}
    members = dict(vars(kind))
    if issubclass(kind, Enum):
        content["values"] = _enum_members(describer, kind)
        members = {n: m for n, m in members.items() if n not in kind._member_map_ and not _is_of_enum(describer, n, m)}
    if owner is Owner.FOLLOWED:
        members = {name: member for name, member in members.items() if _is_reached(describer, kind, name, member)}
        return {**content, "members": describer.fields(members, node.label)}
    content["metaclass"] = None if type(kind) is type else describer.value(type(kind), At(node.label))
    content["kept"] = describer.fields(_kept_in_c(kind), node.label)
    if issubclass(type(kind), ABCMeta):
        describer.watch.see(kind, of_registered)
        content["registered"] = unordered(describer, of_registered(kind), node.label)
    if "__subclasses__" in describer.uses.reads:
        describer.watch.see(kind, type.__subclasses__)
        content["subclasses"] = describer.items(type.__subclasses__(kind), node.label)
    content |= written(describer, node)
    is_called_by_others = any(_is_framework(describer, parent) for parent in kind.__mro__)
    found = {}
    for name, member in members.items():
        if not _NOT_MEANT.fullmatch(name):
            is_used = name in describer.uses.names or name.startswith("__") or Owner.OWN in describer.uses.looks_up
            describer.is_certain = node.is_certain and (is_used or is_called_by_others)
            said = {"library": "attrs"} if _is_hash_of_attrs(member) else None
            found[name] = said or describer.value(member, At(f"{node.label}.{name}"))
    return {**content, "members": found, **describer.order(found)}


def _kept_in_c(kind: type) -> dict[str, Any]:
    """Return what a metaclass that was made in C keeps of a class beside its members, such as msgspec's defaults."""
    found = {}
    metaclass: Any = type(kind)
    for parent in metaclass.__mro__:
        slots = {} if parent in (type, object) else vars(parent)
        for name, slot in slots.items():
            is_slot = isinstance(slot, (types.GetSetDescriptorType, types.MemberDescriptorType))
            if is_slot and not _NOT_MEANT.fullmatch(name):
                with contextlib.suppress(AttributeError):
                    found[name] = slot.__get__(kind)
    return found


def _is_hash_of_attrs(member: Any) -> bool:
    """Return whether attrs wrote this `__hash__`: it has a constant that is another one in each process."""
    code = member.__code__ if isinstance(member, types.FunctionType) else None
    return code is not None and code.co_name == "__hash__" and code.co_filename.startswith("<attrs generated ")


def _is_framework(describer: Describer, parent: type) -> bool:
    """Return whether a library may call the methods of classes that are derived from this one."""
    package = module_of(parent).partition(".")[0]
    return describer.owner(parent) is not Owner.OWN and package not in ("builtins", "abc", "typing", "enum")


def _is_reached(describer: Describer, kind: type, name: str, member: Any) -> bool:
    """Return whether a call may reach a member of a class of transformers: it is named, or runs by syntax."""
    if not (name.startswith("__") and name.endswith("__")):
        is_shared = SHARED.match(kind.__module__) is not None
        return name in describer.uses.names or (
            bool(describer.uses.looks_up) and not is_shared and not name.startswith("_abc_")
        )
    code = getattr(getattr(member, "__func__", member), "__code__", None)
    if code is None or code.co_filename == "<string>" or _NO_OPERATION.fullmatch(name):
        return False  # what `dataclasses` writes follows from the fields, and is another text on each Python
    return name not in _MAKING or kind not in describer.parents


def _is_of_enum(describer: Describer, name: str, member: Any) -> bool:
    """Return whether a member of an enum's class is what `enum` made."""
    function = getattr(member, "__func__", member)
    is_code = isinstance(function, types.FunctionType)
    return describer.is_named(function) if is_code else _OF_ENUMS.fullmatch(name) is not None


def _enum_members(describer: Describer, kind: type[Enum]) -> list[Any]:
    found = []
    for name, member in kind._member_map_.items():
        describer.watch.see_object(member)
        state = {n: value for n, value in attributes_of(member).items() if not _OF_ENUMS.fullmatch(n)}
        found.append([name, describer.fields(state, f"{kind.__qualname__}.{name}")])
    return found
