"""What a launcher tells before it begins of others that carry the same study out."""

from collections.abc import Iterator

from tunestudy.preflight.neighbours import MUCH_AHEAD_S, hours_text
from tunestudy.records import clock
from tunestudy.records.launchers import launchers
from tunestudy.records.layout import StudyDir


def neighbours_in_words(study: StudyDir) -> Iterator[str]:
    """Before a launcher begins: who else carries the study out, and that this machine's clock is wrong."""
    for other in launchers(study):
        yield f"also run as {other}: jobs that it has begun are left to it, and taken over only when it is gone"
    ahead = clock.ahead_s(study.root)
    if abs(ahead) > MUCH_AHEAD_S:
        off = f"{hours_text(abs(ahead))} {'ahead of' if ahead > 0 else 'behind'}"
        yield f"this machine's clock is {off} the one that dates the results; they tell the latter's time"
