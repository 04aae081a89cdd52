"""Paths of clients that see other files than the broker does."""

import posixpath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palace.protocol.errors import PathUnknown
from palace.protocol.pathmap import LABEL, LABELS, READS_FILES, Whereabouts, beneath, translate
from palace.protocol.tools import TOOLS

MAP = {"/workspace": "/Users/me/src", "/workspace/deep": "/Volumes/deep", "/all": "/"}
GUEST = Whereabouts(cwd="/workspace/here", same_files=False)


def call(tool: str, **arguments: Any) -> dict[str, Any]:
    params = {"name": f"mempalace_{tool}", "arguments": arguments}
    return {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}


def read(path: str, where: Whereabouts = GUEST) -> str:
    message = translate(call("mine", source=path, wing="w"), where, MAP)
    assert message["params"]["arguments"]["wing"] == "w"
    return str(message["params"]["arguments"]["source"])


@pytest.mark.parametrize(
    ("there", "here"),
    [
        ("/workspace", "/Users/me/src"),
        ("/workspace/", "/Users/me/src"),
        ("/workspace/a b/c", "/Users/me/src/a b/c"),
        ("//workspace//a/./b/../c", "/Users/me/src/a/c"),
        ("/workspace/deep/x", "/Volumes/deep/x"),
        ("/workspace/deeper", "/Users/me/src/deeper"),
        ("/all/etc", "/etc"),
        ("notes", "/Users/me/src/here/notes"),
        ("../there", "/Users/me/src/there"),
    ],
)
def test_a_guest_names_its_files_in_its_own_words(there: str, here: str) -> None:
    assert read(there) == here


@pytest.mark.parametrize("path", ["/work", "/workspaces/x", "/workspace/../etc", "/", "~/x", "~"])
def test_what_has_no_name_here_is_refused_and_says_how_to_give_it_one(path: str) -> None:
    with pytest.raises(PathUnknown, match="path_map"):
        read(path)


def test_a_relative_path_without_a_working_directory_is_refused() -> None:
    with pytest.raises(PathUnknown):
        read("notes", Whereabouts(same_files=False))


def test_a_link_does_not_lead_out_of_what_is_lent() -> None:
    links = {"/Users/me/src/out": "/etc/secrets", "/Users/me/src": "/real/src"}

    def resolve(path: str) -> str:
        return links.get(path, path.replace("/Users/me/src", "/real/src", 1))

    where = Whereabouts(cwd="/", same_files=False, resolve=resolve)
    assert read("/workspace/in", where) == "/Users/me/src/in"
    with pytest.raises(PathUnknown, match="symbolic link"):
        read("/workspace/out", where)


def test_a_neighbour_means_its_own_working_directory() -> None:
    near = Whereabouts(cwd="/home/me/project")
    assert read("notes", near) == "/home/me/project/notes"
    assert read("/anywhere/at/all", near) == "/anywhere/at/all"
    assert read("~/x", near) == "~/x"


@pytest.mark.parametrize("tool", sorted(LABELS))
def test_a_label_is_translated_where_it_can_be_and_else_stays(tool: str) -> None:
    names = {"/workspace/x.md": "/Users/me/src/x.md", "/other": "/other", "x": "x"}
    for there, here in names.items():
        message = call(tool.removeprefix("mempalace_"), source_file=there)
        translated = translate(message, GUEST, MAP)
        assert translated["params"]["arguments"][LABEL] == here
        assert translate(message, Whereabouts(cwd="/x"), MAP) is message


@pytest.mark.parametrize(
    "message",
    [
        call("mine"),
        call("status", source="/x", source_file="/workspace/x"),
        {"params": {"name": "mempalace_mine"}},
        {"params": {"name": ["mempalace_mine"], "arguments": {"source": "/x"}}},
        {"params": []},
        {},
    ],
)
def test_what_names_no_file_is_left_alone(message: dict[str, Any]) -> None:
    assert translate(message, GUEST, MAP) is message


@pytest.mark.parametrize(
    "message",
    [call("mine", source=7), call("mine", source=" "), call("mine", source=["/etc"]), call("sync")],
    ids=lambda message: str(message["params"]["arguments"]),
)
def test_what_may_look_anywhere_is_left_to_neighbours(message: dict[str, Any]) -> None:
    near = Whereabouts(cwd="/home/me")
    assert translate(message, near, MAP) is message
    assert beneath(message, near, MAP) == ""
    for held in (GUEST, Whereabouts(lent_only=True)):
        with pytest.raises(PathUnknown, match="path_map"):
            translate(message, held, MAP)


def test_who_may_name_only_what_is_lent_is_held_to_the_map_though_its_files_are_ours() -> None:
    where = Whereabouts(cwd="/home/you", lent_only=True, called="uid 7")
    roots = {"/srv/shared": "/srv/shared"}
    message = call("mine", source="/srv/shared/in")
    assert translate(message, where, roots) is message
    assert beneath(message, where, roots) == "/srv/shared"
    for path in ("/home/me", "notes", "/srv/shared/../x", "~/x"):
        with pytest.raises(PathUnknown, match="not lent to uid 7"):
            translate(call("mine", source=path), where, roots)


@pytest.mark.parametrize(
    ("path", "root"),
    [
        ("/workspace", "/Users/me/src"),
        ("deep", "/Users/me/src"),
        ("/workspace/deep/x", "/Volumes/deep"),
    ],
)
def test_a_call_is_held_to_the_nearest_directory_of_the_map(path: str, root: str) -> None:
    assert beneath(call("mine", source=path), GUEST, MAP) == root
    assert beneath(call("sync", project_dir=path), GUEST, MAP) == root
    assert beneath(call("add_drawer", source_file=path), GUEST, MAP) == ""
    assert beneath(call("mine"), GUEST, MAP) == ""
    assert beneath({"params": []}, GUEST, MAP) == ""
    odd = {"params": {"name": "mempalace_mine", "arguments": ["source"]}}
    assert beneath(odd, GUEST, MAP) == ""


def test_the_tools_exist() -> None:
    assert TOOLS.keys() >= READS_FILES.keys() | LABELS


@given(st.lists(st.sampled_from(["..", ".", "", "a", "deep", "workspace"]), max_size=8))
def test_no_spelling_leads_out_of_what_is_lent(parts: list[str]) -> None:
    roots = {"/workspace": "/lent"}
    message = call("sync", project_dir="/" + "/".join(parts))
    try:
        found = translate(message, Whereabouts(cwd="/", same_files=False), roots)
    except PathUnknown:
        return
    here = found["params"]["arguments"]["project_dir"]
    assert here == posixpath.normpath(here)
    assert here == "/lent" or here.startswith("/lent/")


def test_of_directories_within_each_other_the_innermost_counts_wherever_it_stands() -> None:
    for roots in (
        {"/a": "/outer", "/a/bc": "/inner"},
        {"/a/bc": "/inner", "/a": "/outer"},
        {"/z/y/x": "/long", "/z": "/short", "/z/yy": "/other"},
    ):
        longest = max(roots, key=len)
        message = translate(call("mine", source=f"{longest}/f"), GUEST, roots)

        assert message["params"]["arguments"]["source"] == f"{roots[longest]}/f"
        assert beneath(call("mine", source=f"{longest}/f"), GUEST, roots) == roots[longest]


def test_a_neighbour_is_told_who_can_lend_and_a_guest_that_files_are_elsewhere() -> None:
    held = Whereabouts(cwd="/w", lent_only=True, called="uid 7")

    with pytest.raises(PathUnknown, match="is not lent to uid 7"):
        read("/nowhere", held)
    with pytest.raises(PathUnknown, match="client's own file system"):
        read("/nowhere", GUEST)


@pytest.mark.parametrize("same_files", [True, False])
def test_a_link_out_of_what_is_lent_is_said_to_be_one(same_files: bool) -> None:
    def resolve(path: str) -> str:
        return "/etc" if path == "/Users/me/src/x" else path

    where = Whereabouts(cwd="/w", same_files=same_files, lent_only=True, resolve=resolve)

    with pytest.raises(PathUnknown, match="by a symbolic link"):
        read("/workspace/x", where)


@pytest.mark.parametrize("path", ["~/x", "~"])
def test_a_home_is_nobodys_even_where_everything_is_lent(path: str) -> None:
    with pytest.raises(PathUnknown):
        translate(call("mine", source=path), GUEST, {"/": "/srv"})
