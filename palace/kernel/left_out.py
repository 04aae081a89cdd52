"""Modules that another import asks for and that nothing here uses: they are left out meanwhile.

A library imports at its start whatever one of its users may need.  What nobody needs has a stand-in
in the table of modules while that library is imported, which imports the real module as soon as
somebody does use it.
"""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType


class Deferred(ModuleType):
    """Stands for a module that is imported when something of it is used.

    While it stands in the table, each name of it is a function that imports the module at its call:
    only for names that the importing module calls, or annotates with.  `constants` are those that
    it uses as they are.  Whoever holds the module itself finds the real one's later.
    """

    def __init__(self, name: str, **constants: object) -> None:
        super().__init__(name)
        vars(self).update(constants)

    def __getattr__(self, name: str) -> object:
        if sys.modules.get(self.__name__) is not self:
            return getattr(importlib.import_module(self.__name__), name)
        if name.startswith("__"):  # the import system asks for what a module need not have
            raise AttributeError(name)

        def imported_at_last(*given: object, **named: object) -> object:
            if sys.modules.get(self.__name__) is self:
                del sys.modules[self.__name__]
            return getattr(importlib.import_module(self.__name__), name)(*given, **named)

        return imported_at_last


@contextmanager
def left_out(*stand_ins: ModuleType, absent: tuple[str, ...] = ()) -> Iterator[None]:
    """Put stand-ins into the table of modules meanwhile; modules of `absent` can't be imported.

    Those that are imported already stay as they are, and so does what takes a stand-in's place.
    """
    table: dict[str, ModuleType | None] = {module.__name__: module for module in stand_ins}
    table.update(dict.fromkeys(absent))
    standing = {name: module for name, module in table.items() if name not in sys.modules}
    sys.modules.update(standing)  # type: ignore[arg-type]  # None: an import fails at once
    try:
        yield
    finally:
        for name, module in standing.items():
            if name in sys.modules and sys.modules[name] is module:
                del sys.modules[name]
