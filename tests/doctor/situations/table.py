"""All that the doctor may find wrong: how it comes about, and which test tries the remedy.

docs/reference/doctor.md is made from it, and tests/doctor/test_table.py holds it against the
doctor's own source.
"""

from tests.doctor.situations import (
    control,
    damage,
    hosts,
    mesh,
    past,
    processes,
    surroundings,
)
from tests.doctor.situations.place import Situation

SITUATIONS: dict[str, Situation] = (
    surroundings.SITUATIONS
    | past.SITUATIONS
    | control.SITUATIONS
    | damage.SITUATIONS
    | hosts.SITUATIONS
    | processes.SITUATIONS
    | mesh.SITUATIONS
)
TRIED_BY = "tests/doctor/test_situations.py"

# What needs a running broker, a mount or another user: the situation, and the test that brings it
# about, reads what the doctor says, does that, and looks again.
_BESIDE = (
    "tests/process/test_doctor_beside_a_broker.py::test_it_is_a_warning_that_the_next_broker_ends"
)
_SERVER = (
    "tests/contract/test_plugins.py::"
    "test_a_server_that_is_away_is_an_error_at_once_and_never_a_silent_write"
)
_TABLES = (
    "tests/process/test_server_backends.py::"
    "test_a_palace_whose_tables_are_anothers_says_so_until_that_one_leaves"
)
_MESH = "tests/process/test_mesh.py"
_WHY = "tests/process/test_why_cant_i_write.py"
ELSEWHERE: dict[str, tuple[str, str]] = {
    "settings_changed": ("palace.toml was changed under a running broker", _BESIDE),
    "not_published": ("serverinfo.json can't be written again", _BESIDE),
    "http_unreachable": ("stock is sent to a port where nobody listens", _BESIDE),
    "no_token": ("the token file can't be written again", _BESIDE),
    "errors": ("the broker has met an error", _BESIDE),
    "tables_away": ("PostgreSQL, which keeps the drawers, doesn't answer", _TABLES),
    "tables_owned": ("another palace has the tables of the drawers", _TABLES),
    "server_away": ("the server that holds namespaces doesn't answer", _SERVER),
    "renewed": ("a control file was removed under the broker", _BESIDE),
    "mesh_pauses": (
        "a palace has peers, and no broker runs",
        f"{_MESH}::test_pulling_keeps_no_broker_that_nobody_uses",
    ),
    "mesh_stands_still": (
        "nothing can be pulled from any peer",
        f"{_MESH}::test_a_mesh_that_stands_still_is_an_error",
    ),
    "mesh_behind": (
        "a peer doesn't answer, or what it has can't be taken over",
        f"{_MESH}::test_peers_that_are_down_slow_or_hostile_keep_nobody_else_waiting",
    ),
    "mesh_not_agreed": (
        "peers.json names an address that its user has not agreed to",
        f"{_MESH}::test_an_address_that_somebody_adds_later_is_followed_once_it_was_agreed_to",
    ),
    "mesh_unfound": (
        "peers look for a palace where its broker doesn't listen, or have no token to show",
        f"{_MESH}::test_peers_that_come_while_a_broker_runs_are_served_and_the_doctor_says_where",
    ),
    "mesh_forked": (
        "peers know events of this palace that it has lost",
        f"{_MESH}::test_a_palace_that_was_put_back_is_told_that_its_peers_know_more_of_it",
    ),
    "no_model": ("the embedding model is missing", f"{TRIED_BY}::test_the_model_is_missing"),
    "anothers_palace": (
        "the palace is another user's",
        f"{TRIED_BY}::test_a_palace_of_another_user_is_told_with_whom_to_ask",
    ),
    "adoption": (
        "a palace is not yet whole in its journal",
        "tests/engine/durability/test_not_whole_yet.py"
        "::test_the_doctor_says_so_until_a_broker_has_gone_on",
    ),
    "drift": (
        "the stores differ from the journal (`--drift`)",
        "tests/engine/durability/test_lacking.py"
        "::test_a_rebuild_brings_back_what_may_have_been_deleted",
    ),
    "texts_differ": (
        "a bit has flipped in a text, or a program has written into Chroma's database by itself",
        "tests/engine/durability/test_damage.py"
        "::test_a_text_in_which_a_bit_has_flipped_is_seen_while_nobody_asks",
    ),
    "foreign_kernel": (
        "the palace is on another kernel's file system",
        "tests/process/test_own.py"
        "::test_without_a_claim_a_foreign_palace_is_never_opened_and_with_one_the_same_shim_serves",
    ),
    "engine_failed": (
        "the engine can't be loaded",
        "tests/doctor/test_broker_in_the_loop.py"
        "::test_an_engine_that_cant_be_loaded_is_told_until_another_broker_has_one",
    ),
    "network_file_system": (
        "the journal is on a network file system",
        "tests/process/test_own.py::test_a_record_forbids_a_claim_until_it_is_called_dead",
    ),
    "not_held": (
        "a lock or a file can't be taken or published again",
        "tests/process/test_doctor_beside_a_broker.py"
        "::test_what_cant_be_published_again_is_an_error_until_what_it_names_is_corrected",
    ),
    "queue_full": (
        "the broker's queue is full",
        "tests/doctor/test_broker_in_the_loop.py"
        "::test_a_full_queue_is_told_and_status_shows_who_asks",
    ),
    "refused": (
        "a broker does not admit this user",
        "tests/process/test_second_user.py"
        "::test_who_is_admitted_is_told_that_the_broker_serves_and_who_is_not_whom_to_ask",
    ),
    "broker_full": (
        "the broker has no room for another agent",
        "tests/doctor/test_broker_in_the_loop.py"
        "::test_a_broker_without_room_is_told_and_not_taken_for_another_network",
    ),
    "quarantine": (
        "a call was under way at the death of two brokers",
        "tests/doctor/test_journal.py::test_a_key_that_is_not_tried_again_is_shown",
    ),
    "unknown_keys": (
        "records were written with another owner's keys",
        "tests/engine/durability/test_meeting.py"
        "::test_another_owners_journal_counts_as_it_is_found_until_it_is_trusted",
    ),
    "store_mended": (
        "a list was removed under the broker",
        "tests/process/test_taken_away.py::test_a_list_that_is_taken_away_is_written_back",
    ),
    "lacking": (
        "a store lacks entries that the journal holds",
        "tests/process/test_taken_away.py"
        "::test_rows_that_are_lost_under_a_broker_are_told_and_written_again_by_the_next",
    ),
    "not_compared": (
        "the broker's engine is loading",
        "tests/doctor/test_broker_in_the_loop.py"
        "::test_stores_that_could_not_be_compared_are_a_warning_until_they_can",
    ),
    "read_only": ("the directory is read-only", f"{_WHY}::test_the_directory_is_read_only"),
    "stopped": ("a signal has halted the broker", f"{_WHY}::test_the_engine_is_wedged"),
    "wrong_palace": (
        "MEMPALACE_BROKER leads to another palace's broker",
        f"{_WHY}::test_the_socket_leads_to_another_palace",
    ),
    "no_engine": (
        "mempalace is of a version that palace doesn't work with",
        f"{TRIED_BY}::test_the_engine_can_not_be_used",
    ),
    "purge_unfinished": (
        "a purge was interrupted",
        "tests/engine/durability/test_purge.py::test_a_purge_that_died_is_finished_by_the_next_one",
    ),
    "engine_older": (
        "the palace was served with a newer engine",
        "tests/process/test_newer_engine.py"
        "::test_an_older_engine_goes_back_from_the_journal_and_loses_nothing",
    ),
    "workspaces_unknown": (
        "there are workspaces, and the journal is off",
        "tests/doctor/test_journal.py::test_workspaces_without_a_journal_are_named",
    ),
    "fsync_off": (
        "journal_fsync is never",
        "tests/doctor/test_journal.py::test_a_journal_that_waits_for_no_disk_is_named",
    ),
    "held_back": (
        'a store has lost something while journal = "dual"',
        "tests/engine/durability/test_dual.py"
        "::test_a_change_that_a_store_has_lost_is_held_back_until_on_writes_it_again",
    ),
    "stuck": (
        "a change makes no progress",
        "tests/process/test_takeover.py"
        "::test_a_change_that_holds_up_all_others_is_told_with_the_command_that_ends_it",
    ),
    "set_aside": (
        "records that the palace's owner didn't write were set aside",
        "tests/engine/durability/test_meeting.py"
        "::test_what_was_set_aside_is_removed_when_its_owner_says_so",
    ),
}
