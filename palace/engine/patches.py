"""Patches: one attribute of other people's code each, replaced after a look at what is there.

mempalace and chromadb offer no hooks where palace needs them, so some of their functions are
replaced in this process.  Each replacement is a value that names its target, checks that the target
is what it was written for, and can be undone: what is patched can be listed, and a release that
changed the place refuses the engine instead of running half patched.
"""

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from types import ModuleType
from typing import Any

import attrs

from palace.protocol.errors import StoreUnavailable

Undo = Callable[[], None]
_MISSING = object()


def is_callable(found: object) -> str:
    """Check that a function or class is there; say what is wrong otherwise."""
    return "" if callable(found) else "it can't be called"


@attrs.frozen(kw_only=True)
class Patch:
    """A module's or class's attribute, and what takes its place.

    `check` is given what is there and returns what is wrong with it, "" if nothing.
    `replacement` is given the same and returns what takes its place; it isn't called until `apply`.
    """

    target: ModuleType | type
    attribute: str
    replacement: Callable[[Any], object]
    check: Callable[[Any], str] = is_callable

    @property
    def place(self) -> str:
        """Return the dotted name of what is replaced."""
        owner = self.target
        inside = f"{owner.__module__}." if isinstance(owner, type) else ""
        return f"{inside}{owner.__name__}.{self.attribute}"

    def problem(self) -> str:
        """Return why this can't be applied, "" if it can."""
        found = getattr(self.target, self.attribute, _MISSING)
        why = "it is missing" if found is _MISSING else self.check(found)
        return f"{self.place}: {why}" if why else ""

    def apply(self) -> Undo:
        """Replace the attribute; return what puts the old one back.  Raises StoreUnavailable."""
        problem = self.problem()
        if problem:
            raise StoreUnavailable(
                f"The installed mempalace doesn't fit this palace ({problem}). Install a 3.11.x "
                "release that palace was tested with."
            )
        # Only what the target itself has is put back: an inherited attribute shows again by itself.
        old = vars(self.target).get(self.attribute, _MISSING)
        setattr(self.target, self.attribute, self.replacement(getattr(self.target, self.attribute)))

        def undo() -> None:
            if old is _MISSING:
                delattr(self.target, self.attribute)
            else:
                setattr(self.target, self.attribute, old)

        return undo


def apply_patches(patches: Iterable[Patch]) -> Undo:
    """Apply patches in order, all or none; return what undoes them in the opposite order.

    Raises StoreUnavailable, naming the first that doesn't fit.
    """
    with ExitStack() as undos:
        for patch in patches:
            undos.callback(patch.apply())
        return undos.pop_all().close
