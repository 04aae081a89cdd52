"""Case scripts that don't exit with 0, and why; test_case_scripts.py runs them all.

One that goes right has to be taken out.  One that asks for what isn't right, or speaks to what is
no more, names the tests that hold its meaning in today's terms.  Where a few words make it speak to
this palace, they stand here, too, and with them it has to exit with 0: so its reason is tried, and
not only said.
"""

import attrs

Words = tuple[tuple[str, str], ...]  # of a script, and those that say the same today


@attrs.frozen
class Known:
    """Why a script does not exit with 0, and what holds what it means (tests/PATH.py::NAME).

    `today` are the words of its own that have changed their meaning since; None where what it asks
    for isn't right, and no words help.
    """

    why: str
    held_by: tuple[str, ...] = ()
    today: Words | None = None


_OLDER = "speaks to modules of an older palace: it can't be tried, and says 1 all the same"
_SETTINGS = "puts into palace.toml what counts only as a user's setting, and goes no further"
_KERNEL = ("from palace.host import Host\n", "from palace.kernel.kernel import Kernel as Host\n")
# The user agrees to what the scripts' harness has written, once, as one does after an upgrade.
_WRITTEN = """        with open(self.root + "/palace.toml", "w") as f: f.write(text)
"""
_AGREED = """        agree = [*PALACE, "config", "trust", "--yes", "--palace", self.root]
        subprocess.run(agree, env=self.env(), check=True, stdout=subprocess.DEVNULL)
"""
HARNESS: dict[str, Words] = {"hx.py": ((_WRITTEN, _WRITTEN + _AGREED),)}
KNOWN = {
    "world/16-backend-says.sh": Known(
        "takes a palace of sqlite_exact for one without a journal: it has one by now, and a backup",
        (
            "tests/process/test_status.py"
            "::test_the_backend_of_drawers_is_named_where_it_is_not_chroma",
            "tests/engine/durability/test_backup.py"
            "::test_restored_palace_answers_as_the_one_that_was_backed_up",
            "tests/engine/durability/test_backends.py"
            "::test_a_backend_that_is_not_journalled_is_named",
        ),
    ),
    "world/16-backend-left-journal.sh": Known(
        "wants a palace served whose journal is another backend's: none is opened by now",
        (
            "tests/engine/durability/test_backends.py"
            "::test_settings_that_name_another_backend_open_no_empty_palace",
        ),
    ),
    "world/26-old-token-lockout.sh": Known(
        _SETTINGS,
        (
            "tests/broker/test_guests.py"
            "::test_who_guesses_is_refused_and_keeps_nobody_out_who_has_the_token",
            "tests/broker/test_guests.py"
            "::test_a_token_that_was_refused_is_not_shown_to_the_same_broker_again",
        ),
        today=(("palace start >", "palace config trust --yes >/dev/null; palace start >"),),
    ),
    "world/27-second-user.sh": Known(
        _SETTINGS,
        (
            "tests/process/test_second_user.py"
            "::test_who_is_admitted_is_told_that_the_broker_serves_and_who_is_not_whom_to_ask",
        ),
        today=(
            (
                "user 54321 one start ",
                'user 54321 one config trust --yes --palace "$Q" >/dev/null; user 54321 one start ',
            ),
        ),
    ),
    "security/03-evil-backup-writes-any-file.py": Known(
        _OLDER,
        (
            "tests/process/test_lent_palace.py"
            "::test_a_backup_of_somebody_elses_is_refused_and_writes_nothing",
        ),
        today=(
            (
                "from palace.backup import *\n",
                "from palace.commands.backup import Manifest, read_manifest\n"
                "from palace.journal.copying import file_digest\n"
                "from palace.kernel.kernel import Kernel as Host\n",
            ),
        ),
    ),
    "security/04-journal-record-reads-and-makes-files.py": Known(
        _OLDER,
        (
            "tests/process/test_lent_palace.py"
            "::test_records_that_name_other_files_are_named_and_never_carried_out",
        ),
        today=(_KERNEL,),
    ),
    "security/07-guest-reads-hosts-files.py": Known(
        _SETTINGS,
        (
            "tests/process/test_lent_palace.py"
            "::test_settings_in_the_palace_open_and_admit_nothing_and_are_named",
            "tests/broker/test_rights.py::test_a_guest_is_a_guest_whatever_it_says",
            "tests/security/test_tries.py::test_nobody_has_a_file_read_or_made_by_a_name",
        ),
        today=(),
    ),
    "security/08-links-lead-out-of-path-map.py": Known(
        _SETTINGS,
        (
            "tests/engine/hosting/test_lent_files.py::test_no_link_is_followed",
            "tests/engine/hosting/test_lent_files.py"
            "::test_a_directory_that_comes_and_goes_as_a_link_never_shows_the_host",
        ),
        today=(),
    ),
    "security/13-escapes-reach-the-terminal.py": Known(
        _OLDER,
        (
            "tests/commands/test_escapes.py"
            "::test_what_files_of_the_palace_say_of_its_owner_and_its_broker",
            "tests/commands/test_escapes.py::test_history",
            "tests/security/test_tries.py::test_nobody_controls_a_terminal_by_a_name",
        ),
        today=(
            (
                "from palace.backup import *;",
                "from palace.commands.backup import read_manifest;"
                " from palace.kernel.kernel import Kernel as Host;",
            ),
        ),
    ),
    "security/18-parents-lose-their-mode.py": Known(
        _SETTINGS,
        (
            "tests/engine/hosting/test_places.py::test_only_mempalaces_own_directories_are_closed",
            "tests/engine/hosting/test_places.py"
            "::test_the_way_to_the_socket_stays_open_for_those_who_may_connect",
        ),
        today=(),
    ),
    "security/22-strangers-lock-guests-out.py": Known(
        _SETTINGS,
        (
            "tests/broker/test_guests.py::test_who_has_no_token_keeps_nobody_out_who_has_it",
            "tests/broker/test_guests.py"
            "::test_who_guesses_is_refused_and_keeps_nobody_out_who_has_the_token",
        ),
        today=(),
    ),
    "security/23-record-overrides-a-private-token.py": Known(
        _OLDER,
        (
            "tests/client/guest/test_own_token.py"
            "::test_a_record_names_no_certificate_for_the_users_own_token",
            "tests/client/guest/test_own_token.py"
            "::test_a_record_names_no_address_for_the_users_own_token",
        ),
        today=(
            _KERNEL,
            ("from palace.paths import", "from palace.settings.paths import"),
            ("from palace.env import", "from palace.settings.environment import"),
            (
                "from palace.shim.ladder import Ladder, Rung\n",
                "from palace.client.guest.fallbacks import Candidate as Rung, Fallbacks\n"
                "from palace.settings.site import Site as Where\n"
                "def Ladder(*where): return Fallbacks(Where(*where))\n",
            ),
        ),
    ),
    "security/30-one-client-takes-all-polls.py": Known(
        "compares bytes with text, where all is right",
        (
            "tests/protocol/test_admission.py::test_polls_of_one_partys_many_sessions_leave_slots_for_others",
        ),
        today=(("r = b.line()[:100]", "r = b.line()[:100].decode()"),),
    ),
    "security/32-squatted-port-collects-the-token.py": Known(
        _SETTINGS,
        ("tests/broker/http/test_http.py::test_a_token_is_worth_nothing_to_the_next_broker",),
        today=(),
    ),
}
