"""What all parts of the model are handed: the scope, the variant, and where steps go."""

from collections.abc import Callable
from typing import NamedTuple

from tests.model.scope import Scope
from tests.model.state import State

Label = tuple[str, int]  # a step's name, and the process or shim that takes it
Out = Callable[[Label, State], None]


class Model(NamedTuple):
    """`variant` names a broken protocol, "" is the real one."""

    scope: Scope
    variant: str = ""
