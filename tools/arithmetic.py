"""Writes studies/arithmetic.jsonl: sums with a rationale and a difficulty, for the small form of a study.

Run it as `python tools/arithmetic.py`; the file is the same every time.
"""

import json
import random
from pathlib import Path

COUNT = 400
TARGET = Path(__file__).resolve().parent.parent / "studies" / "arithmetic.jsonl"


def record(number: int, terms: tuple[int, ...]) -> dict[str, str | int]:
    """`2+7+5=` with the steps `2+7=9 9+5=14` and the answer `14`; the more terms, the more difficult."""
    steps, total = [], terms[0]
    for term in terms[1:]:
        steps.append(f"{total}+{term}={total + term}")
        total += term
    prompt = "+".join(map(str, terms)) + "="
    return {
        "id": f"sum-{number}",
        "prompt": prompt,
        "rationale": " ".join(steps),
        "completion": str(total),
        "difficulty": len(terms),
    }


def main() -> None:
    draw = random.Random(0)
    sums: dict[tuple[int, ...], None] = {}  # in the order of drawing, each once
    while len(sums) < COUNT:
        sums.setdefault(tuple(draw.randrange(10) for _ in range(draw.randint(2, 4))))
    rows = [record(number, terms) for number, terms in enumerate(sums)]
    TARGET.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
