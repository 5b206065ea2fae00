"""One word for how a destination reacted, from what was seen of it."""

from dataclasses import replace

import pytest

from testbed.replay.verdict import Carried, Pages, Process, Reaction

ALL = Carried(1, "main", 100, 100, 100, sent_all=True, ended="FIN", shut=None)
CUT = replace(ALL, sent_bytes=60, taken_bytes=50, sent_all=False, place="the footer of FULL timer")
QEMU = Process("7.2.22", status="completed", run_state="running")
HUNG = "nothing moved for 10 s"
SAID = ("Missing section footer for timer", "load of migration failed: Invalid argument")


@pytest.mark.parametrize(
    ("reaction", "verdict", "reason"),
    [
        (Reaction([ALL]), "taken", "it read all and closed; nothing says what it made of it"),
        (Reaction([replace(ALL, shut=0)]), "accepted", "SHUT 0 on connection 1"),
        (Reaction([replace(ALL, shut=0)], HUNG), "accepted", "SHUT 0 on connection 1"),
        (Reaction([replace(ALL, shut=1)]), "refused", "SHUT 1 on connection 1"),
        (
            Reaction([replace(ALL, ended="RST")]),
            "refused",
            "it closed connection 1 with bytes unread, or reset it (RST)",
        ),
        (
            Reaction([CUT]),
            "refused",
            "it ended connection 1 (FIN) before offset 0x32, in the footer of FULL timer",
        ),
        (
            Reaction([replace(CUT, ended="ETIMEDOUT")], HUNG),
            "unknown",
            "connection 1 was lost on the way (ETIMEDOUT) before offset 0x32, in the footer of "
            "FULL timer",
        ),
        (
            Reaction([replace(ALL, ended="EHOSTUNREACH", shut=0)]),
            "accepted",
            "SHUT 0 on connection 1",
        ),
        (Reaction([replace(ALL, ended=None)], HUNG), "hung", HUNG),
        (
            Reaction([replace(ALL, ended=None)]),
            "unknown",
            "nothing that came over the socket tells",
        ),
        (
            Reaction([replace(CUT, ended="RST", cut_by_fault=True)]),
            "unknown",
            "a fault ended the connection, and with it all that could tell",
        ),
        (
            Reaction([replace(ALL, ended=None)], HUNG, pages=Pages(5, lacking=2)),
            "hung",
            f"{HUNG}; 2 pages were never recorded: the destination waits for them",
        ),
    ],
)
def test_what_sockets_tell(reaction, verdict, reason) -> None:
    assert reaction.judged == (verdict, reason)


@pytest.mark.parametrize(
    ("process", "hung", "verdict", "reason"),
    [
        (QEMU, None, "accepted", "completed, and its guest is running"),
        (
            replace(QEMU, run_state="paused"),
            None,
            "accepted",
            "completed, and its guest is paused",
        ),
        (
            replace(QEMU, run_state="paused", refused="no"),
            None,
            "refused",
            "completed, but its guest cannot run: no",
        ),
        (
            replace(QEMU, run_state="io-error"),
            None,
            "unknown",
            "completed, and its guest is io-error",
        ),
        (
            replace(QEMU, silent=True),
            None,
            "hung",
            "completed, and then QMP gave no answer",
        ),
        (
            Process("7.2.22", status="failed", exit_status=1, stderr=("a", *SAID)),
            None,
            "refused",
            f"it ended with status 1: a; {SAID[0]}; {SAID[1]}",
        ),
        (
            Process("10.0.13", status="failed", error_desc="why", stderr=SAID),
            None,
            "refused",
            "its migration failed: why",
        ),
        (Process("7.2.22", exit_status=-11), None, "crashed", "SIGSEGV ended it"),
        (Process("7.2.22", exit_status=-11), HUNG, "crashed", "SIGSEGV ended it"),
        (Process("7.2.22", status="active"), HUNG, "hung", HUNG),
        (
            Process("7.2.22", status="postcopy-paused", stderr=SAID[:1]),
            None,
            "paused",
            f"its postcopy is paused: {SAID[0]}",
        ),
        (Process("7.2.22", status="setup"), None, "unknown", "its migration is setup"),
    ],
)
def test_what_a_destination_of_ours_says(process, hung, verdict, reason) -> None:
    assert Reaction([ALL], hung, process).judged == (verdict, reason)
