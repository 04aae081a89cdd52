"""Whom a session acts as: bound once, when the register is known; and which tools it is shown."""

from palace.broker.own_catalogue import CHANGING, ENTRIES, Entry
from palace.broker.services import Services
from palace.broker.session import LiveSession
from palace.protocol import wire
from palace.protocol.elsewhere import in_its_lane, may_go_elsewhere
from palace.protocol.jsonrpc import Catalogue
from palace.protocol.policy import shows_candidates, shows_own
from palace.protocol.principals import (
    OWNER,
    Principal,
    Whence,
    is_confined,
    plugin_with,
    principal_of,
    proven,
    refusal_of,
)
from palace.protocol.request import ToolCall
from palace.protocol.rights import Peer, Who
from palace.protocol.tools import Lane


def bound_principal(services: Services, session: LiveSession | None) -> Principal | None:
    """Return whom a session acts as; None where that can't be known, and matters.

    It is bound with the first call, since the register is read when the engine is loaded.  One that
    was forgotten meanwhile is nobody in a palace that has workspaces.
    """
    if session is not None and session.principal is not None:
        return _still(services, session, session.principal)
    if session is not None and (session.hello.is_command or session.hello.is_mesh):
        return OWNER
    tree = services.engine.workspaces()
    if tree is None:
        has_register = services.kernel.file_id(services.ownership.paths.register) is not None
        # Whoever shows a token is not the owner, whatever has become of the register.
        shown = session is not None and session.hello.token
        is_contract = session is not None and session.hello.is_contract
        return None if has_register or shown or is_contract else OWNER
    if session is None:
        return None if tree.workspaces else OWNER
    if session.hello.is_contract and session.hello.token not in tree.tokens:
        session.principal = plugin_with(session.hello.token)
        return session.principal
    cwd = session.where.cwd if session.where.same_files else ""
    hello = session.hello
    found = principal_of(
        tree, Whence(peer=session.peer, token=hello.token, cwd=cwd, said=hello.workspace)
    )
    session.principal = found
    if tree.workspaces:
        session.header(wire.WORKSPACE, {"name": found.workspace})
    return found


def _still(services: Services, session: LiveSession, principal: Principal) -> Principal:
    """Return a session's principal; that of a user whom the owner has given a workspace since."""
    if session.peer.who is Who.ALLOWED and not principal.token:
        tree = services.engine.workspaces()
        session.principal = principal = (
            proven(tree, session.peer, "") if tree else None
        ) or principal
    return principal


def lane_of(services: Services, session: LiveSession, call: ToolCall) -> ToolCall:
    """Return a call in the lane in which it may ask a server that holds namespaces elsewhere."""
    config = services.config
    if not config.memory_plugin or call.tool.lane is Lane.REMOTE:
        return call
    tree, principal = services.engine.workspaces(), bound_principal(services, session)
    if principal is not None and principal.plugin:
        return call  # its namespaces are here, whatever they are called
    is_bound = tree is not None and principal is not None and is_confined(tree, principal)
    confined = bool(session.hello.token) or is_bound
    kinds = config.memory_plugin_kinds
    return in_its_lane(call) if may_go_elsewhere(call, kinds, is_confined=confined) else call


def is_anothers(services: Services, session: LiveSession, peer: Peer, token: str) -> bool:
    """Tell whether a process is proven to be somebody else than a session acts as.

    Who goes on with what a token or the kernel has proven proves it again: a session's secret alone
    would give its replies, and its rights, to whoever has read it.
    """
    tree = services.engine.workspaces()
    if session.principal is None or tree is None:
        return False
    found = proven(tree, peer, token)
    return found != session.principal if session.principal.confined else found is not None


def catalogue_for(services: Services, session: LiveSession) -> Catalogue | None:
    """Return what a session is told of the tools: stock's, and palace's own where they are used."""
    catalogue, tree = services.catalogue, services.engine.workspaces()
    own_tools = services.config.own_tools
    offers = shows_candidates(own_tools, pulls=services.engine.pulls())
    has_own = tree is not None and bool(tree.workspaces or shows_own(own_tools, tree))
    if catalogue is None or tree is None or not (has_own or offers):
        return catalogue
    principal = bound_principal(services, session)
    stock = () if principal is None else catalogue.tools
    if principal is not None and principal != OWNER:
        stock = tuple(one for one in stock if not refusal_of(tree, principal, one["name"]))
    is_bound = principal is not None and not is_confined(tree, principal)
    is_told = has_own and (shows_own(own_tools, tree) or not is_bound)
    own: tuple[Entry, ...] = ENTRIES if is_told else ()
    changing = CHANGING
    if is_bound and offers and stock:
        from palace.broker import candidate_catalogue  # where other palaces are pulled from

        own += candidate_catalogue.ENTRIES
        changing |= candidate_catalogue.CHANGING
    if not own:
        return catalogue
    return Catalogue(
        engine_version=catalogue.engine_version,
        protocol_versions=catalogue.protocol_versions,
        tools=(*stock, *own),
        read_only_refused=catalogue.read_only_refused | changing,
        extras=catalogue.extras,
    )
