"""A store around another one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

from .base import Store

if TYPE_CHECKING:
    from typing_extensions import Self

MethodT = TypeVar("MethodT", bound=Callable[..., Any])


def _handed_on(method: MethodT) -> MethodT:
    """Return a method that calls the wrapped store's one of this name."""
    name = method.__name__

    @functools.wraps(method, updated=())  # what is abstract in Store is not so here
    def hand_on(self: WrappingStore, *arguments: Any, **named: Any) -> Any:
        return getattr(self._wrapped, name)(*arguments, **named)

    return cast(MethodT, hand_on)


class WrappingStore(Store):
    """Hands every call on to another store; a subclass overrides the calls that it is there for.

    A child shares all other attributes with its parent.
    """

    def __init__(self, wrapped: Store) -> None:
        self._wrapped = wrapped

    get_many = _handed_on(Store.get_many)
    get_again = _handed_on(Store.get_again)
    get_ranges = _handed_on(Store.get_ranges)
    put_many = _handed_on(Store.put_many)
    refuse_puts = _handed_on(Store.refuse_puts)
    exists_many = _handed_on(Store.exists_many)
    renew = _handed_on(Store.renew)
    delete = _handed_on(Store.delete)
    sync = _handed_on(Store.sync)
    tidy = _handed_on(Store.tidy)
    scan = _handed_on(Store.scan)
    listing = _handed_on(Store.listing)
    location = _handed_on(Store.location)

    @property
    def is_local(self) -> bool:  # type: ignore[override]  # an attribute of the class elsewhere
        return self._wrapped.is_local

    @property
    def copies(self) -> Store | None:
        return self._wrapped.copies

    def bare(self) -> Store:
        return self._around(self._wrapped.bare())

    def child(self, prefix: str) -> Self:
        return self._around(self._wrapped.child(prefix))

    def _around(self, store: Store) -> Self:
        """Return a copy of this one around another store."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__, _wrapped=store)
        return other

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._wrapped!r})"
