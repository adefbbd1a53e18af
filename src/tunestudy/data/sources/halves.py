"""Half characters: JSON can spell one half of a UTF-16 pair (`\\ud83d`), which no text can hold.

Programs that cut text in the middle of an emoji leave them. Source: RFC 8259, section 8.2.
"""

import json
import re
from typing import Any

HALF = "half of a character, as `\\ud83d` is of an emoji"

_SPELT = re.compile(r"\\u[dD][89a-fA-F]")


def may_hold_half(written: str) -> bool:
    """Whether JSON spells any part of a pair; whole pairs do, too."""
    return _SPELT.search(written) is not None


def holds_half(value: Any) -> bool:
    """Whether some text of a value that was read from JSON cannot be written."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False
