"""No point of the checklist holds the others up or ends them."""

import sys
import time

from tunestudy.preflight.points import answer_of, ask_all, ok, refusal, some


def test_an_error_and_a_silence_are_warnings_beside_the_rest(monkeypatch):
    secret = "hf_" + "a" * 24

    def breaks():
        raise RuntimeError(f"boom {secret}")

    began = time.monotonic()
    points = ask_all(
        {"hangs": lambda: time.sleep(30) or [], "breaks": breaks, "holds": lambda: [ok("holds", "yes")]}, patience_s=0.1
    )
    assert time.monotonic() - began < 20
    assert [(point.check, point.state) for point in points] == [
        ("hangs", "warning"),
        ("breaks", "warning"),
        ("holds", "ok"),
    ]
    assert "no answer within 0.1 s" in points[0].found and "boom" in points[1].found
    assert secret not in str(points)


def test_a_program_that_is_absent_fails_or_hangs_is_told_apart():
    assert answer_of(["no-such-program"]).state == "absent"
    failed = answer_of([sys.executable, "-c", "import sys; print('broken', file=sys.stderr); sys.exit(3)"])
    assert (failed.state, failed.text) == ("failed", "broken")
    assert answer_of(["sleep", "30"], patience_s=0.05).state == "silent"
    assert answer_of(["echo", "x"]).text == "x\n"


def test_a_message_ends_with_its_cure():
    point = refusal("disk", "about 2 GB are needed, 1 GB; is free; make room")
    assert (point.found, point.remedy) == ("about 2 GB are needed, 1 GB; is free", "make room")
    assert refusal("disk", "full").remedy == ""
    assert some(list("abcdefg")) == "a, b, c, d, e, … (7 in all)"
