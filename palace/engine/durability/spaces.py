"""The namespaces of the memory contract's plugin role, as rows of the register."""

import attrs

from palace.engine.durability.groups import CallGroups
from palace.engine.durability.namespaces import end_namespace
from palace.engine.stores.register import NAMESPACE, Register, row_of_namespace
from palace.protocol.workspaces import PLUGIN, Namespace


@attrs.frozen(eq=False, kw_only=True)
class RegisteredSpaces:
    """What palace/memory/operations.py changes, within one call's group; `at` is when that is."""

    register: Register
    groups: CallGroups
    at: str

    def count(self) -> int:
        return sum(name.startswith(f"{PLUGIN}:") for name in self.register.rows(NAMESPACE))

    def put(self, space: Namespace) -> None:
        self.register.put(self.groups, NAMESPACE, space.name, row_of_namespace(space))

    def end(self, space: Namespace) -> None:
        end_namespace(self.register, self.groups, space.name, self.at)
