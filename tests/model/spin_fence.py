"""The broken protocols of specs/fence.pml: switch, the check that finds it, and the world."""

_CUT_OFF = "ENDS=1 FORCES=1 CRASHES=0"  # from the database, whose tables another one takes then
_PROMOTED = "ND=1 CRASHES=0 FAILOVERS=1"

FENCE_ROWS = (
    ("reconnects_blindly", "F2_row_names_writer", _CUT_OFF),
    ("row_before_lock", "F2_row_names_writer", _CUT_OFF),
    ("unlocked_between", "F2_row_names_writer", _CUT_OFF),
    ("no_exclusive", "F2_row_names_writer", "CRASHES=0 F5_OFF=1 F8_OFF=1"),
    ("stock_holds_nothing", "F2_row_names_writer", "ND=1 KINDS=2 ENDS=1 CRASHES=1"),
    ("stock_unfenced", "F2_row_names_writer", f"{_CUT_OFF} KINDS=2"),
    ("epoch_not_raised", "F3_epochs_rise", "CRASHES=0"),
    ("epoch_not_raised", "F1_one_per_epoch", "CRASHES=0 CHANGES=2 F3_OFF=1"),
    ("settled_early", "F6_settled_is_true", "CRASHES=0"),
    ("settled_in_service", "F6_settled_is_true", "CRASHES=0"),
    ("settled_unseen", "F6_settled_is_true", "CRASHES=1"),
    ("settles_anybodys", "F6_settled_is_true", _CUT_OFF),
    ("settles_elsewhere", "F6_settled_is_true", _PROMOTED),
    ("no_unsettled_rule", "F5_no_open_journal", "CRASHES=1"),
    ("note_after_row", "F10_owner_noted", "CRASHES=0"),
    ("note_overwritten", "F10_owner_noted", "ND=1 CRASHES=1"),
    ("note_keeps_one", "F10_owner_noted", "ND=1 LIVES=3 CRASHES=2 FAILOVERS=1"),
    ("no_timeline", "F7_lost_commits_nothing", _PROMOTED),
    ("lacks_not_rewritten", "F4_acknowledged", f"{_PROMOTED} CHANGES=2"),
    ("lease", "F8_living_keeps", "CRASHES=0 FORCES=1 F5_OFF=1"),
    ("forced_past_the_lock", "F8_living_keeps", "CRASHES=0 FORCES=1"),
    ("terminates_anybody", "F9_own_sessions", "CRASHES=0"),
    ("terminates_later", "F9_own_sessions", "CRASHES=1"),
    ("copied_note", "F9_own_sessions", "COPIES=1 CRASHES=0"),
)
