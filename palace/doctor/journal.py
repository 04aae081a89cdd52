"""Damage in a journal's files: gaps, torn lines, mixed copies, damaged checkpoints."""

import os
from collections.abc import Iterator

import attrs

from palace.doctor.diagnostics import Diagnostics
from palace.doctor.finding import ERROR, NOTE, OK, WARNING, Finding
from palace.journal.aside import ASIDE, kept_aside
from palace.journal.inspect import Gap, read_from
from palace.journal.journal import PAUSE, read_tail
from palace.journal.last_words import LastWords
from palace.journal.record import QUARANTINE, SEGMENT, STATE, Record
from palace.journal.replay import newest_checkpoint, problem_of_checkpoint
from palace.journal.schema import SEQ_MAX, object_of
from palace.journal.segment import (
    Broken,
    Segment,
    list_segments,
    read_segment,
    too_new_in_archive,
)
from palace.kernel.kernel import Kernel
from palace.protocol.decoding import decode_json, number_in
from palace.protocol.keyring import ANYBODYS, Keyring
from palace.settings.config import NEVER

# What keeps a reader from knowing the last word on everything.
LACKS = ("gap", "wrong_checksum", "broken_line", "head_ahead", "broken_checkpoint", "epoch_fell")


def check_journal(found: Diagnostics) -> Iterator[Finding]:
    """Yield what is wrong with this palace's journal, or that nothing is."""
    if found.is_anothers and not os.access(found.paths.journal, os.R_OK | os.X_OK):
        return  # palace/doctor/users.py says who may look at it
    findings = inspect_journal(found.paths.journal, found.kernel, found.keys, found.words)
    if found.foreign is None:  # local, or claimed with `palace own`
        findings = [one for one in findings if one.code != "network_file_system"]
    findings += _adoption(found)
    findings += _unknown_keys(found)
    findings += _without_fsync(found)
    findings += _paused(found)
    yield from findings
    if not findings and found.exists:
        text = "in order" if found.kernel.list_directory(found.paths.journal) else "none yet"
        yield Finding(level=OK, code="journal", text=text)


def _adoption(found: Diagnostics) -> Iterator[Finding]:
    """Say that the journal doesn't hold the whole palace yet, and whether that is going on."""
    adopting = found.tail().adopting
    if adopting is None:
        return
    going = ((found.status or {}).get("journal") or {}).get("adoption") or {}
    text = (
        f"The journal does not hold the whole palace yet ({adopting.total} entries): no backup can "
        "be made, nor a damaged store be brought back."
    )
    if going.get("total") and not going.get("problem"):
        text += f" The broker has taken {going['done']} of {going['total']} into it."
        yield Finding(
            level=NOTE,
            code="adoption",
            text=text,
            remedy="None needed: the broker goes on beside its calls.",
        )
        return
    problem = f" The broker could not go on: {going['problem']}." if going else ""
    yield Finding(
        level=WARNING,
        code="adoption",
        text=text + problem,
        remedy="A broker goes on with it while it serves, once nothing hinders it: palace start",
    )


def _without_fsync(found: Diagnostics) -> Iterator[Finding]:
    config = found.config
    if config is not None and config.journal != "off" and config.journal_fsync == NEVER:
        yield Finding(
            level=WARNING,
            code="fsync_off",
            text="journal_fsync = never: a power cut takes acknowledged changes with it. What only "
            "kills a broker takes nothing.",
            remedy="If this palace is not there to be thrown away: palace config set "
            "journal_fsync=mutation; palace stop",
        )


def _paused(found: Diagnostics) -> Iterator[Finding]:
    """Say that brokers change the palace without its journal, or that one has."""
    off = found.config is not None and found.config.journal == "off"
    noted = found.kernel.file_id(f"{found.paths.journal}/{PAUSE}") is not None
    if not found.exists or not (off or (noted and found.holder is None)):
        return
    has = found.kernel.list_directory(found.paths.journal)
    text = "The journal lacks what a broker has written without it" if has else "There is none"
    how = "palace config set journal=on; palace stop; palace start" if off else "palace start"
    yield Finding(
        level=WARNING,
        code="journal_off",
        text=f"{'journal = off. ' if off else ''}{text}: no backup holds it, nothing that a death "
        "cuts off is repeated, and no damaged store is brought back.",
        remedy=f"Let a broker take the palace into it: {how}",
    )


def _unknown_keys(found: Diagnostics) -> Iterator[Finding]:
    """Yield that records count which were written with keys that this user never had."""
    floor = found.keys.floor
    if 0 < floor <= SEQ_MAX:
        yield Finding(
            level=WARNING,
            code="unknown_keys",
            text=f"Records up to {floor} were written with keys that this user doesn't have, and "
            "count as its first broker found them. Whoever may write to the palace could have "
            "changed them before, and can still.",
            remedy="See who wrote them, and seal them with your own key if that is right: palace "
            "trust. If their owner serves the palace as well, get its keys instead: palace trust "
            "--add-keys FILE",
        )


def inspect_journal(
    directory: str,
    kernel: Kernel,
    keys: Keyring = ANYBODYS,
    words: LastWords | None = None,  # noted on the way: they are known if nothing is missing
) -> list[Finding]:
    """Return all findings about a journal's files."""
    words = LastWords() if words is None else words
    segments = list_segments(directory, kernel, archived=True)
    if not segments:
        return []
    findings = [
        *_file_system(directory, kernel),
        *_headers(segments, kernel, keys),
        *_too_new(directory, kernel),
        *_set_aside(directory, kernel),
        *_held_back(segments, kernel, keys),
    ]
    last = 0
    epoch = 0
    torn: list[Broken] = []
    foreign: dict[str, list[Broken]] = {}
    for found in read_from(directory, kernel, segments[0].first, keys):
        if isinstance(found, Broken) and found.is_foreign:
            foreign.setdefault(found.place.path, []).append(found)
        elif isinstance(found, Broken):
            torn.append(found)
        elif isinstance(found, Gap):
            findings += _gap(found, torn)
            torn = []
        else:
            findings += _torn(torn)
            torn = []
            if found.epoch < epoch:
                findings.append(_epoch_fell(found, epoch))
            last, epoch = found.seq, max(epoch, found.epoch)
            words.take(found)
            if found.action == QUARANTINE:
                findings.append(_quarantine(found))
            elif found.action == STATE and object_of(found.payload).get("whole"):
                findings = [_healed(finding, found) for finding in findings]
    findings += _torn(torn, newest=segments[-1].path)
    findings += map(_foreign, foreign.values())
    findings += _head(directory, kernel, last)
    findings += _checkpoint(directory, kernel, keys, words)
    words.are_known = not any(one.level == ERROR and one.code in LACKS for one in findings)
    return findings


def _file_system(directory: str, kernel: Kernel) -> Iterator[Finding]:
    mount = kernel.mount_of(directory)
    if not mount.is_local:
        yield Finding(
            level=ERROR,
            code="network_file_system",
            text=f"The journal is on {mount.point}, a {mount.fs_type} mount of another kernel.",
            remedy="Move the palace to a disk of this machine.",
        )


def _headers(segments: list[Segment], kernel: Kernel, keys: Keyring) -> Iterator[Finding]:
    """Yield segments that lack their header, which makes readers start at an older segment."""
    for segment in segments:
        found = next((found for _, found in read_segment(segment, kernel, keys)), None)
        if isinstance(found, Broken) or (found is not None and found.action != SEGMENT):
            yield Finding(
                level=WARNING,
                code="broken_header",
                text=f"{segment.path} does not begin with its header.",
                remedy="No memory is missing, since the journal is read from an older segment. If "
                "a broker doesn't start because of it, restore the file from a backup.",
            )


def _too_new(directory: str, kernel: Kernel) -> Iterator[Finding]:
    for path in too_new_in_archive(directory, kernel):
        yield Finding(
            level=ERROR,
            code="foreign_record",
            text=f"{path} is named for records that are not in the archive yet. It counts nowhere.",
            remedy="Somebody else has written to this directory: find out who may, and take it "
            "from them (docs/security.md). Then move the file away; a broker that starts and has "
            "the journal's keys sets it aside.",
        )


def _held_back(segments: list[Segment], kernel: Kernel, keys: Keyring) -> Iterator[Finding]:
    """Yield stores that have lost something while the journal was not to decide about them."""
    try:
        held = read_tail(segments, kernel, keys).held_back
    except (KeyError, TypeError, ValueError):
        return  # a damaged header, which is named by `_headers`
    if held:
        yield Finding(
            level=ERROR,
            code="held_back",
            text=f"{', '.join(sorted(held))} lacks what was acknowledged: the store was replaced, "
            "or has lost it. The journal holds it, and no broker writes it again while journal = "
            '"dual".',
            remedy="Let a broker write it again: palace config set journal=on; palace stop; palace "
            "start",
        )


def _foreign(lines: list[Broken]) -> Finding:
    first = lines[0]
    more = f" {len(lines) - 1} more lines of the file are alike." if len(lines) > 1 else ""
    return Finding(
        level=ERROR,
        code="foreign_record",
        text=f"{first.place.path} holds at byte {first.place.offset}, with a right checksum, what "
        f"is {first.why}.{more}",
        remedy="It is not carried out. Somebody else has written to this directory: find out who "
        "may, and take it from them (docs/security.md). A broker that starts sets aside what "
        "stands in the newest files.",
    )


def _set_aside(directory: str, kernel: Kernel) -> Iterator[Finding]:
    """Yield that brokers have set records aside, for as long as these are kept."""
    lines, files, size = kept_aside(directory, kernel)
    if files:
        yield Finding(
            level=WARNING,
            code="set_aside",
            text=f"{directory}/{ASIDE} holds {lines} lines in {files} files ({size} bytes) "
            "that this palace's owner didn't write. They were not carried out; what the stores "
            "held was taken over as another program's changes.",
            remedy="If you know who wrote them, and may: give that owner the keys (palace trust "
            "--show-keys). If not, take write access to the palace from others. Then remove them: "
            "palace trust --discard",
        )


def _torn(broken: list[Broken], newest: str = "") -> Iterator[Finding]:
    """Yield lines that are not records although no record is missing: crashes leave them.

    The last one is its newest segment's tail, where nothing follows it.
    """
    for line in broken:
        is_tail = line is broken[-1] and line.place.path == newest and line.is_torn
        yield Finding(
            level=NOTE,
            code="torn_tail" if is_tail else "torn_line",
            text=f"{line.place.path} has a torn line at byte {line.place.offset}: a crash "
            "interrupted it before it took effect.",
        )


def _gap(gap: Gap, broken: list[Broken]) -> Iterator[Finding]:
    seqs = f"{gap.first}" if gap.first == gap.last else f"{gap.first} to {gap.last}"
    remedy = (
        "The stores still have what they hold. Restore the journal's file from a backup, or "
        "let a broker take over what the stores hold: palace start"
    )
    for line in broken:
        code = "wrong_checksum" if "checksum" in line.why else "broken_line"
        where = f"{line.place.path} at byte {line.place.offset}"
        yield Finding(level=ERROR, code=code, text=f"{where}: {line.why}.", remedy=remedy)
    yield Finding(level=ERROR, code="gap", text=f"Record {seqs} is missing.", remedy=remedy)


def _healed(finding: Finding, record: Record) -> Finding:
    """Lower a gap's level if the stores were taken over later: only history is missing."""
    if finding.code not in ("gap", "wrong_checksum", "broken_line"):
        return finding
    remedy = f"None needed: record {record.seq} took over what the stores held."
    return attrs.evolve(finding, level=NOTE, remedy=remedy)


def _epoch_fell(record: Record, epoch: int) -> Finding:
    return Finding(
        level=ERROR,
        code="epoch_fell",
        text=f"Record {record.seq} is of epoch {record.epoch}, though epoch {epoch} came before.",
        remedy="Two copies of the palace were mixed. Restore all of its files from one backup.",
    )


def _quarantine(record: Record) -> Finding:
    return Finding(
        level=WARNING,
        code="quarantine",
        text=f"The call {record.key} is not tried again: {record.payload}.",
        remedy=f"See what it was: palace history --since {max(1, record.seq - 20)}",
    )


def _head(directory: str, kernel: Kernel, last: int) -> Iterator[Finding]:
    try:
        head = decode_json(kernel.read_hint(f"{directory}/HEAD.json") or b"{}")
    except ValueError:
        return  # a cache
    seq = number_in(head, "seq")
    if seq > last:
        yield Finding(
            level=ERROR,
            code="head_ahead",
            text=f"HEAD.json names record {seq}, but the journal ends with {last}.",
            remedy="The journal lost its end, or an older copy was put back. Restore it, or let "
            "a broker take over what the stores hold: palace start",
        )


def _checkpoint(
    directory: str, kernel: Kernel, keys: Keyring, words: LastWords
) -> Iterator[Finding]:
    newest = newest_checkpoint(directory, kernel)
    if newest is None:
        return
    path = newest[0]
    wrong = []
    for _, found in read_segment(Segment(path=path, first=0, end=None), kernel, keys):
        if isinstance(found, Broken):
            wrong.append(f"{path} at byte {found.place.offset}: {found.why}.")
        else:
            words.take(found)  # a restored palace has no older records than these
    if not wrong and (why := problem_of_checkpoint(*newest, kernel, keys)):
        wrong.append(f"{path}: {why}.")
    for text in wrong:
        yield Finding(
            level=ERROR,
            code="broken_checkpoint",
            text=text,
            remedy=f"Move it away, and move the segments in {directory}/archive back: they "
            "hold the same.",
        )
