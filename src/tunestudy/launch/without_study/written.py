"""Study files that commands write for what has none of its own."""

import io
from collections.abc import Mapping
from typing import Any

from ruamel.yaml import YAML


def study_text(values: Mapping[str, Any]) -> str:
    """A study file's text."""
    out = io.StringIO()
    yaml = YAML()
    yaml.width = 120
    yaml.dump(dict(values), out)
    return out.getvalue()
