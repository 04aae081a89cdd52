"""`palace set-embedder`: the drawers of a palace get vectors of another embedder.

New stores are made of the journal's texts, checked, and put in the place of the old ones, which are
kept.  What was embedded until a failure, or a kill, is kept as well: the same command goes on.
"""

import os
from collections.abc import Mapping

import attrs

from palace.commands.maintenance import leave_request
from palace.commands.move_store import fix_environment
from palace.commands.progress import progress_shown
from palace.engine.durability.backends import named_backend, store_of
from palace.engine.durability.offline import hold_palace, opened_journal
from palace.engine.durability.owned import OwnedPalace
from palace.engine.durability.rebuild import Rebuild, Rebuilt
from palace.engine.durability.reembedding import Reembedding, embedders_in
from palace.engine.embedding.anew import Embedded, embedding_with, find_embedder
from palace.engine.stores.drawers import CHROMA
from palace.journal.journal import Journal
from palace.journal.replay import replay
from palace.ownership.directory import prepare_private
from palace.protocol.errors import ConfigError
from palace.settings.embedder import VARIABLE, configured_embedder
from palace.settings.environment import ShimEnvironment
from palace.settings.inherited import EMBEDDERS
from palace.settings.paths import Paths, embedded_file

SERVER = "openai-compat"
URL, MODEL = "MEMPALACE_EMBEDDING_API_URL", "MEMPALACE_EMBEDDING_API_MODEL"


@attrs.frozen(kw_only=True)
class Wish:
    """Which embedder is wanted; `url` and `model` are of one that is a server.

    `again`: also where it has made the vectors already.
    """

    name: str
    url: str = ""
    model: str = ""
    again: bool = False

    def fixed(self, environment: dict[str, str]) -> dict[str, str]:
        """Return a broker's fixed environment with this embedder in the place of another one."""
        rest = {name: value for name, value in environment.items() if name not in EMBEDDERS}
        if self.name != SERVER:
            return {**rest, VARIABLE: self.name}
        return {**rest, VARIABLE: self.name, URL: self.url, MODEL: self.model}


@attrs.frozen(kw_only=True)
class Changed:
    """What was made; `embedder` is its name as mempalace records it."""

    rebuilt: Rebuilt
    embedder: str
    dimension: int


def set_embedder(paths: Paths, environment: ShimEnvironment, wish: Wish, *, stop: bool) -> Changed:
    """Embed all drawers anew; the old stores are kept.

    Raises ConfigError for a name that mempalace doesn't know, a server without an address, and the
    embedder that made the vectors already; StoreUnavailable for one that can't be had, or answers
    nonsense; and what a rebuild raises.  Nothing was replaced then.
    """
    _check(wish)
    leave = leave_request(paths, environment, stop=stop)
    with hold_palace(paths, environment, ask_to_leave=leave) as held:
        fixed = wish.fixed(dict(held.config.environment))
        path = _path(paths, environment, held)
        with opened_journal(held) as journal:
            Rebuild(palace=held, journal=journal, progress=progress_shown()).settle()
        with opened_journal(held) as journal, embedding_with(fixed):
            _check_new(held, journal, wish, fixed)
            as_chroma = store_of(named_backend(held)) == CHROMA
            embedder = find_embedder(wish.name, as_chroma=as_chroma)
            made_by = (embedder.name, embedder.dimension, wish.url, wish.model, as_chroma)
            vectors = Embedded(path, made_by, held.kernel)
            try:
                anew = Reembedding(embedder=embedder, vectors=vectors)
                progress = progress_shown()
                rebuild = Rebuild(palace=held, journal=journal, progress=progress, anew=anew)
                rebuild.check()
                rebuilt = rebuild.build()
            finally:
                vectors.close()
        fix_environment(held, environment, fixed)
        vectors.remove()
    return Changed(rebuilt=rebuilt, embedder=embedder.name, dimension=embedder.dimension)


def _check(wish: Wish) -> None:
    if wish.name == SERVER and not (wish.url and wish.model):
        raise ConfigError(
            f"{SERVER} is a server that is asked: name its address and its model (--url URL "
            "--api-model MODEL). Its key, if it wants one, is read from config.json, or from "
            "MEMPALACE_EMBEDDING_API_KEY."
        )
    if wish.name != SERVER and (wish.url or wish.model):
        raise ConfigError(f"--url and --api-model are for {SERVER}; {wish.name[:80]} is no server.")


def _check_new(held: OwnedPalace, journal: Journal, wish: Wish, fixed: dict[str, str]) -> None:
    """Refuse the embedder that has made all vectors already, and that brokers use."""
    known = replay(held.paths.journal, held.kernel, keys=journal.keys)
    made = {name.partition(":")[0] for name in embedders_in(known).values()}
    is_used = _used(held, fixed) == _used(held, held.config.environment)
    if is_used and made == {wish.name} and not wish.again:
        raise ConfigError(
            f"The vectors of {held.paths.root} are of {wish.name} already. To embed all anew with "
            "it: --again"
        )


def _used(held: OwnedPalace, fixed: Mapping[str, str]) -> tuple[str | None, ...]:
    """Return what brokers embed with where this environment is fixed."""
    name = configured_embedder(held.config.config_dir, fixed)
    return name, *(fixed.get(one) for one in EMBEDDERS if one != VARIABLE)


def _path(paths: Paths, environment: ShimEnvironment, held: OwnedPalace) -> str:
    path = embedded_file(paths.root, environment.all)
    directory = os.path.dirname(path)
    os.makedirs(os.path.dirname(directory), 0o700, exist_ok=True)
    prepare_private(
        directory, held.kernel, called="The directory of vectors", remedy="Correct or remove it."
    )
    return path


def changed_text(changed: Changed) -> str:
    """Return what to tell the user."""
    made = changed.rebuilt
    return (
        f"{made.entities} entities are in new stores, with vectors of {changed.embedder} "
        f"({changed.dimension} numbers each); the old ones are in {made.kept}. Brokers embed with "
        "it from now on."
    )
