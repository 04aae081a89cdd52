"""Patches to mempalace and chromadb: values that are checked, applied and undone in one place.

Hosting means replacing some functions of packages that are not ours.  Each replacement is a
`Patch`: where it goes, why, what must be there, and what takes its place.  `Patches` checks all of
them before it applies the first, so that a release which lacks one target is refused rather than
run with half of its patches.

A patch costs what its replacement costs: the registry is not on the way of any call.
"""

from collections.abc import Callable, Iterable
from typing import Any

import attrs

from palace.engine.versions import SUPPORTED
from palace.protocol.errors import StoreUnavailable
from palace.settings.installation import command_for

JOURNAL = "journal"  # the name of the journal's patches; every other name is an adjustment's


class _Absent:
    """Stands for an attribute that is not there."""


ABSENT = _Absent()


@attrs.frozen(kw_only=True)
class Patch:
    """One attribute of a module, class or function, or one entry of a dict, that is replaced.

    `replace` gets what is there when the patch is applied, which may be another patch's
    replacement, and returns what takes its place; `expected` says whether the target still is what
    the replacement was written for.
    """

    name: str  # of the adjustment that it belongs to, or JOURNAL
    why: str
    owner: object
    attribute: str
    replace: Callable[[Any], object]
    expected: Callable[[object], bool] = callable

    def check(self) -> None:
        """Raise StoreUnavailable where the target is missing or is not what was expected."""
        found = _read(self.owner, self.attribute)
        if self.expected(found):
            return
        if found is ABSENT or found is None:
            raise _missing(self.owner, self.attribute, self.name)
        raise StoreUnavailable(
            f"{_path(self.owner, self.attribute)} of the installed {_package(self.owner)} is not "
            f"what {_user(self.name)} replaces: {found!r}. {_remedy(self.name)}"
        )


@attrs.define(eq=False)
class Patches:
    """The patches that were applied, in their order."""

    _applied: list[tuple[Patch, object]] = attrs.field(factory=list)

    @property
    def applied(self) -> tuple[Patch, ...]:
        return tuple(patch for patch, _ in self._applied)

    def apply(self, patches: Iterable[Patch]) -> None:
        """Check all patches, then apply all; raises StoreUnavailable before anything changes."""
        planned = list(patches)
        for patch in planned:
            patch.check()
        for patch in planned:
            replacement = patch.replace(_read(patch.owner, patch.attribute))
            # The raw entry, not what attribute access makes of it: a static method, say.
            previous = _entries(patch.owner).get(patch.attribute, ABSENT)
            _write(patch.owner, patch.attribute, replacement)
            self._applied.append((patch, previous))

    def undo(self) -> None:
        """Put back what was there before, the last patch first."""
        while self._applied:
            patch, previous = self._applied.pop()
            _write(patch.owner, patch.attribute, previous)


def always(replacement: object) -> Callable[[object], object]:
    """Return a `replace` whose replacement doesn't need what was there."""
    return lambda _stock: replacement


def need(owner: object, attribute: str, name: str) -> Any:
    """Return what a patch uses beside its target; raises StoreUnavailable if it is missing."""
    found = _read(owner, attribute)
    if found is ABSENT or found is None:
        raise _missing(owner, attribute, name)
    return found


def _read(owner: object, attribute: str) -> object:
    if isinstance(owner, dict):
        return owner.get(attribute, ABSENT)
    return getattr(owner, attribute, ABSENT)


def _write(owner: object, attribute: str, value: object) -> None:
    """Set an attribute or entry; ABSENT removes it, so that an inherited one shows again."""
    if isinstance(owner, dict):
        if value is ABSENT:
            del owner[attribute]
        else:
            owner[attribute] = value
    elif value is ABSENT:
        delattr(owner, attribute)
    else:
        setattr(owner, attribute, value)


def _entries(owner: object) -> dict[str, object]:
    return owner if isinstance(owner, dict) else dict(vars(owner))


def _missing(owner: object, attribute: str, name: str) -> StoreUnavailable:
    return StoreUnavailable(
        f"The installed {_package(owner)} has no {_path(owner, attribute)}, which {_user(name)} "
        f"needs. {_remedy(name)}"
    )


def _user(name: str) -> str:
    return "the journal" if name == JOURNAL else f"the adjustment {name!r}"


def _remedy(name: str) -> str:
    install = (
        f"Install a {SUPPORTED}.x release that palace was tested with: "
        f"{command_for(f'mempalace=={SUPPORTED}.*')}"
    )
    if name == JOURNAL:
        return f"{install}; or run without a journal: palace config set journal=off"
    return f"{install}; or switch it off: palace config set adjustments_off={name}"


def _package(owner: object) -> str:
    module = getattr(owner, "__module__", None) or getattr(owner, "__name__", "mempalace")
    package = str(module).partition(".")[0]
    return package if package == "chromadb" else "mempalace"


def _path(owner: object, attribute: str) -> str:
    name = getattr(owner, "__qualname__", None) or getattr(owner, "__name__", None)
    return f"{name}.{attribute}" if name else f"entry {attribute!r}"
