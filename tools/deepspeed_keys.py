"""Print docs/deepspeed.md: every key of DeepSpeed's configuration and what becomes of it."""

from tunestudy.config.deepspeed import KEYS, Kind

HEADINGS: dict[Kind, str] = {
    "passed on": "Passed on to DeepSpeed",
    "held against the study": "Held against the study: the same value there, or `auto` here",
    "without effect": "Without effect",
    "refused": "Refused, with the reason, unless they are off",
}
INTRODUCTION = """\
# Keys of DeepSpeed's configuration

`engine: deepspeed` takes them as `deepspeed:` of a stage, written out or as the name of a JSON file beside the study
file. The study stays the one place that says how training goes; a key that is not in this table is an error with the
nearest name. Read for DeepSpeed 0.19; `python tools/deepspeed_keys.py` prints this page, tests feed each key
(tests/study/test_deepspeed.py).
"""


def page() -> str:
    """The whole page."""
    lines = [INTRODUCTION]
    for kind, heading in HEADINGS.items():
        lines += [f"## {heading}", "", "| key | |", "|:--|:--|"]
        lines += [f"| `{key.name}` | {key.words} |" for key in KEYS.values() if key.kind == kind]
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    print(page(), end="")
