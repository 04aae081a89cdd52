"""`palace share`: what others may pull from here over https, each with a token of its own."""

import os
from collections.abc import Callable

import attrs

from palace.commands.guests import identity_here
from palace.kernel.kernel import Kernel
from palace.kernel.output import one_line
from palace.ownership.book import digest_of
from palace.ownership.guest_book import check_name, guests_directory, prepare_directory
from palace.ownership.share_book import (
    SHARES_MAX,
    WINGS_MAX,
    Share,
    read_shares,
    write_shares,
)
from palace.protocol.errors import ConfigError, NotEmpty
from palace.protocol.federation import DRAWER, FACT
from palace.settings.config import Config
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths

NONE_YET = "Nothing is shared. Share some of it: palace share new NAME --wing WING --out FILE"
NOT_SERVED = (
    "Nobody can come for it yet: palace config set serve_http=HOST:PORT names where this palace "
    "answers over TLS."
)

# Returns the fingerprint of the certificate that is shown over TLS.
Fingerprint = Callable[[Config, Kernel, str], str]


@attrs.frozen(kw_only=True)
class Wish:
    """The share that is wanted; `everything`: drawers of all wings.

    No kinds: drawers, and of everything facts, too.  A fact is in no wing.
    """

    name: str
    wings: tuple[str, ...]
    kinds: tuple[str, ...]
    everything: bool
    out: str


@attrs.frozen
class Shares:
    """The shares of one palace."""

    paths: Paths
    environment: ShimEnvironment
    kernel: Kernel = attrs.field(factory=Kernel)

    @property
    def directory(self) -> str:
        return guests_directory(self.paths.root, self.environment.all)

    @property
    def palace(self) -> str:
        return identity_here(self.paths, self.kernel)

    def read(self) -> dict[str, Share]:
        return read_shares(self.directory, self.palace, self.kernel)

    def write(self, shares: dict[str, Share]) -> None:
        directory = prepare_directory(self.paths, self.environment.all, self.kernel)
        write_shares(directory, self.palace, shares, self.kernel)


def new_share(shares: Shares, config: Config, wish: Wish, fingerprint: Fingerprint) -> str:
    """Share some of a palace, with a token in a new file; return what is told of it.

    Raises ConfigError, and NotEmpty where there is such a file, and then nothing is shared.
    """
    _check(wish)
    kernel, known = shares.kernel, shares.read()
    if not shares.palace:
        raise ConfigError(f"{shares.paths.root} has no identity yet: palace start gives it one.")
    if wish.name in known:
        raise ConfigError(f"{wish.name} is shared already: palace share revoke {wish.name}")
    if len(known) >= SHARES_MAX:
        raise ConfigError(f"There are {SHARES_MAX} shares, which is as many as it takes.")
    if kernel.file_id(wish.out) is not None:
        raise NotEmpty(f"{wish.out} exists. Name another file, or remove it: nothing is shared.")
    token = kernel.token(32)
    kernel.write_durable(wish.out, f"{token}\n".encode())
    share = Share(
        name=wish.name,
        digest=digest_of(token),
        wings=wish.wings,
        kinds=wish.kinds or ((DRAWER,) if wish.wings else (DRAWER, FACT)),
        since=kernel.utc_text(),
    )
    try:
        shares.write({**known, wish.name: share})
    except (OSError, ConfigError, KeyboardInterrupt):
        kernel.unlink(wish.out)
        raise
    said = f"{wish.name} shares {_scope(share)}; its token is in {os.path.abspath(wish.out)}."
    return "\n".join((said, _how(shares, config, wish.name, fingerprint)))


def _check(wish: Wish) -> None:
    check_name(wish.name)
    if wish.everything == bool(wish.wings):
        raise ConfigError("Say what is shared: --wing WING, once or more often; or --all wings.")
    if len(wish.wings) > WINGS_MAX or not all(wish.wings):
        raise ConfigError(f"A share is of up to {WINGS_MAX} wings, and each has a name.")
    for kind in wish.kinds:
        if kind not in (DRAWER, FACT):
            raise ConfigError(f"--kind takes {DRAWER} or {FACT}, not {kind[:100]!r}.")
    if not wish.out:
        raise ConfigError("Name the new file that is to hold the token: --out FILE")


def _how(shares: Shares, config: Config, name: str, fingerprint: Fingerprint) -> str:
    """Return how somebody else comes for a share."""
    if not config.serve_http:
        return NOT_SERVED
    prepare_directory(shares.paths, shares.environment.all, shares.kernel)
    digits = fingerprint(config, shares.kernel, shares.directory)
    return (
        f"On the other machine: palace remote add {name} https://{config.serve_http}#{digits} "
        "--token-file FILE"
    )


def shares_text(shares: Shares, config: Config, fingerprint: Fingerprint) -> str:
    """Return all shares, one a line, and how others come for them."""
    found = shares.read().values()
    if not found:
        return NONE_YET
    lines = [one_line(f"{one.name}  {_scope(one)}  since {one.since}") for one in found]
    return "\n".join((*lines, _how(shares, config, "NAME", fingerprint)))


def _scope(share: Share) -> str:
    what = " and ".join(f"{kind}s" for kind in share.kinds)
    return f"{what}, of drawers {', '.join(share.wings) or 'all wings'}"


def revoke_share(shares: Shares, name: str) -> str:
    """Share something no more; return what is told of it."""
    known = shares.read()
    if name not in known:
        listed = ", ".join(known) or "none"
        raise ConfigError(f"There is no share {name!r:.100}. The shares are: {listed}.")
    shares.write({key: one for key, one in known.items() if key != name})
    return f"{name} is shared no more: its token opens nothing from now on."
