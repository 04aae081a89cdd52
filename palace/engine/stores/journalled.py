"""Which kinds of entities each tool may change: what a call of it leaves in the journal."""

from palace.engine.stores.drawers import COLLECTION, PREFIX

_DRAWERS, _CLOSETS = (f"{PREFIX}mempalace_{name}" for name in ("drawers", "closets"))
_FIRST_DRAWERS = (COLLECTION, _DRAWERS)  # the collection is made when it is first needed
_INDEXED_DRAWERS = (_DRAWERS, _CLOSETS)  # a closet quotes the file that a drawer was mined from
_FACTS = ("graph:entity", "graph:triple")
# What a call of each tool may change; what is not listed changes nothing in the palace.
JOURNALLED: dict[str, tuple[str, ...]] = {
    "mempalace_kg_add": _FACTS,
    "mempalace_kg_invalidate": ("graph:triple",),
    "mempalace_kg_supersede": _FACTS,
    "mempalace_create_tunnel": ("tunnel",),
    "mempalace_delete_tunnel": ("tunnel",),
    "mempalace_delete_hallway": ("hallway",),
    "mempalace_follow_tunnels": ("tunnel",),
    "mempalace_add_drawer": _FIRST_DRAWERS,
    "mempalace_checkpoint": _FIRST_DRAWERS,
    "mempalace_delete_drawer": _INDEXED_DRAWERS,
    "mempalace_delete_drawers": _INDEXED_DRAWERS,
    "mempalace_mine": (COLLECTION, *_INDEXED_DRAWERS, "hallway", "tunnel"),
    "mempalace_delete_by_source": _INDEXED_DRAWERS,
    "mempalace_sync": _INDEXED_DRAWERS,
    "mempalace_update_drawer": _INDEXED_DRAWERS,
    "mempalace_diary_write": _FIRST_DRAWERS,
    "mempalace_event_append": ("log:event",),
    "mempalace_task_create": ("log:event",),
    "mempalace_event_ack": ("log:event",),
    "mempalace_artifact_put": ("log:artifact",),
    "mempalace_patch_submit": ("log:artifact", "log:event", "log:attached"),
}
# The same of palace's own tools, which agents have where there are workspaces.
_AUDIT = "palace:audit"  # of what an organisation's root decrees
OWN_JOURNALLED: dict[str, tuple[str, ...]] = {
    "palace_commit_memory": (*_FIRST_DRAWERS, _AUDIT),
    "palace_commit_summary": (*_FIRST_DRAWERS, _AUDIT),
    "palace_forget_memory": (_DRAWERS, _AUDIT),
    "palace_delegate": ("log:event",),
    "palace_heartbeat": ("log:event",),
}
_CANDIDATE = "palace:candidate"
# The same of those which agents have where other palaces are pulled from.
CANDIDATES_JOURNALLED: dict[str, tuple[str, ...]] = {
    "palace_accept_candidate": (*_FIRST_DRAWERS, *_FACTS, _CANDIDATE),
    "palace_dismiss_candidate": (_CANDIDATE,),
}
