"""Evaluations as a worker writes them, put into a made study: circular and fractional benchmarks, images, Korean."""

import hashlib
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw
from studies import Recipe, make_study

from tunestudy.records.layout import JobDir, StudyDir
from tunestudy.records.picks import picked, thumbnail_name

EVIL = '</script><img src=x onerror="document.title=1"><!--'
Line = dict[str, Any]
VISION = Recipe(
    name="vision-benchmarks",
    description="What does tuning on charts give, and what does it take away?",
    benchmarks=("chartqa", "mmbench_ko", "docvqa", "digits"),
)
SKILL = {
    "chartqa": {"untrained": 0.42, "full": 0.72, "lora_r4": 0.55, "lora_r16": 0.62},
    "mmbench_ko": {"untrained": 0.70, "full": 0.58, "lora_r4": 0.71, "lora_r16": 0.70},
    "docvqa": {"untrained": 0.55, "full": 0.57, "lora_r4": 0.53, "lora_r16": 0.60},
}


@dataclass(frozen=True)
class Shape:
    """How a made benchmark's lines look."""

    title: str
    metric: str
    make: Callable[[random.Random, float], Iterator[Line]]
    aggregate: str = "mean"
    ways: tuple[str, ...] = ()


def _luck(benchmark: str, place: int) -> float:
    """How hard a question is: the same for every model, so that models are wrong on the same ones."""
    return random.Random(f"{benchmark}/{place}").random()


def _sha(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def line(row_id: str, prediction: str, reference: str, score: float, **more: Any) -> Line:
    """A line of predictions.jsonl with all its keys, in the order in which a worker writes them."""
    facts = {"understood": prediction, "asked": "", "group": "", "categories": {}, "images": [], "problem": ""}
    told = {**facts, "others": {}, **more}
    known = {"id": row_id, "prediction": prediction, "reference": reference, "correct": score == 1, "score": score}
    return {**known, **told}


def charts(random_: random.Random, skill: float) -> Iterator[Line]:
    """200 questions about charts, two in three by people; one image cannot be decoded, one question is hostile."""
    for i in range(200):
        kind = "human" if i % 3 else "augmented"
        right = 0.7 * _luck("chartqa", i) + 0.3 * random_.random() < skill + (0.1 if kind == "human" else -0.1)
        value = str(round(100 * _luck("value", i)))
        asked = EVIL if i == 7 else f"How many units did region {i % 12} sell in {2000 + i % 25}?"
        said = value if right else random_.choice([f"about {i}", "", "7" * 900])
        broken = {"problem": "image cannot be decoded: broken image, truncated file"} if i == 11 else {}
        yield line(
            f"chart-{i:04d}", said, value, float(right and not broken), understood=value if right else None,
            asked=asked, categories={"type": kind, "split": "test"}, images=[] if broken else [_sha("chart", i)],
            **broken,
        )  # fmt: skip


def circles(random_: random.Random, skill: float) -> Iterator[Line]:
    """120 Korean multiple-choice questions, each asked with four rotations of its options."""
    kinds = ["행동 추론", "공간 관계", "속성 비교", "문자 인식", "사회적 관계", "미래 예측"]
    for i in range(120):
        bonus = 0.1 * (i % 6) - 0.25
        for turn in range(4):
            right = 0.9 * _luck("mmbench_ko", i) + 0.1 * random_.random() < skill + bonus
            letter = "ABCD"[(i + turn) % 4]
            said = f"정답: {letter}" if right else f"({'ABCD'[(i + turn + 1) % 4]})"
            yield line(
                f"{i}-{turn}", said, letter, float(right), understood=letter if right else said[1],
                asked=f"다음 그림에서 {i}번째 사람은 무엇을 하고 있습니까?\nA. 읽기  B. 쓰기  C. 걷기  D. 먹기",
                group=f"q{i}", categories={"category": kinds[i % 6], "l2-category": "인식" if i % 2 else "추론"},
                images=[_sha("scene", i)],
            )  # fmt: skip


def documents(random_: random.Random, skill: float) -> Iterator[Line]:
    """150 questions on 50 pages, scored in part; another way of computing it gives the half-right ones more."""
    for i in range(150):
        luck = 0.6 * _luck("docvqa", i // 3) + 0.4 * random_.random()
        score = 1.0 if luck < skill - 0.2 else round(0.5 + 0.4 * random_.random(), 4) if luck < skill + 0.1 else 0.0
        said = "Kim & Söhne <GmbH>" if score == 1 else "Kim" if score else "no idea"
        others = {"lmms-eval": min(1.0, score + 0.08)} if 0 < score < 1 else {}
        yield line(
            f"doc-{i:03d}", said, "Kim & Söhne <GmbH>", score, asked=f"Who signed page {i // 3}, line {i % 3}?",
            categories={"question_type": ["table/list", "free text", "form", "handwritten"][i % 4]},
            images=[_sha("page", i // 3)], others=others,
        )  # fmt: skip


SHAPES = {
    "chartqa": Shape("ChartQA", "relaxed accuracy", charts),
    "mmbench_ko": Shape("K-MMBench", "accuracy", circles, aggregate="all_of_group"),
    "docvqa": Shape("DocVQA", "ANLS", documents, ways=("lmms-eval",)),
}


def make_evaluated(results: Path, recipe: Recipe = VISION, *, checkpoints: bool = True) -> StudyDir:
    """A made study whose benchmarks in `SHAPES` are as a worker leaves them, thumbnails and checkpoints' scores too."""
    study_dir = make_study(results, recipe)
    for path in sorted(study_dir.jobs.glob("*/job.json")):
        job, folder = json.loads(path.read_text()), JobDir(path.parent)
        variant = job["variants"][0] if job["stage"] == "base" else job["variants"][-1]
        for name in SHAPES.keys() & set(recipe.benchmarks):
            if not folder.eval_json(name).exists():
                continue
            skill = SKILL[name].get(variant, 0.6)
            lines = write_evaluation(folder, name, skill, f"{variant}/{job['seed']}")
            _thumbnails(folder, name, lines)
            for step in (50, 100, 150) if checkpoints and job["stage"] != "base" else ():
                write_evaluation(folder, name, skill * step / 200, f"{variant}/{job['seed']}/{step}", step)
    return study_dir


def write_evaluation(folder: JobDir, name: str, skill: float, salt: str, step: int | None = None) -> list[Line]:
    """Predictions and summary of one benchmark; the summary is worked out here, apart from the package."""
    shape = SHAPES[name]
    lines = sorted(shape.make(random.Random(f"{name}/{salt}"), skill), key=lambda row: row["id"])
    target = folder.eval if step is None else folder.eval / f"checkpoint-{step}"
    target.mkdir(exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in lines)
    (target / f"{name}.predictions.jsonl").write_text(text, encoding="utf-8")
    old = json.loads(folder.eval_json(name).read_text())
    (target / f"{name}.json").write_text(json.dumps({**old, **summary(lines, shape, name)}))
    return lines


def summary(lines: list[Line], shape: Shape, name: str) -> dict[str, Any]:
    units: dict[str, list[Line]] = {}
    for row in lines:
        units.setdefault(row["group"] or row["id"], []).append(row)
    worst = [(of[0], min(row["score"] for row in of)) for of in units.values()]
    metrics = {shape.metric: sum(score for _, score in worst) / len(worst)}
    for way in shape.ways:
        metrics[f"{shape.metric} ({way})"] = sum(row["others"].get(way, row["score"]) for row in lines) / len(lines)
    told: dict[str, dict[str, list[float]]] = {}
    for row, score in worst:
        for column, value in row["categories"].items():
            told.setdefault(column, {}).setdefault(value, []).append(score)
    means = {
        column: {value: {"n": len(of), "score": sum(of) / len(of)} for value, of in values.items()}
        for column, values in told.items()
    }
    counts = {
        "unparsed": sum(row["understood"] is None and not row["problem"] for row in lines),
        "undecodable": sum("decoded" in row["problem"] for row in lines),
    }
    return {
        "title": shape.title, "type": name, "compat": "official", "aggregate": shape.aggregate, "n": len(lines),
        "primary": shape.metric, "metrics": metrics, "counts": {k: n for k, n in counts.items() if n},
        "categories": means, "rows_sha256": _sha("rows", name),
    }  # fmt: skip


def _thumbnails(folder: JobDir, name: str, lines: list[Line]) -> None:
    wrong = {row["id"] for row in lines if row["score"] < 1}
    kept = set(picked([row["id"] for row in lines], wrong))
    folder.thumbnails(name).mkdir()
    for row in lines:
        for sha in row["images"] if row["id"] in kept else []:
            path = folder.thumbnails(name) / thumbnail_name(sha)
            if not path.exists():
                _picture(sha).save(path, "JPEG")


def _picture(sha: str) -> Image.Image:
    """Bars of heights and a colour that come from the hash; some tall, some wide."""
    wide, tall = (320, 180) if int(sha[0], 16) % 2 else (200, 320)
    image = Image.new("RGB", (wide, tall), "white")
    draw = ImageDraw.Draw(image)
    for i in range(8):
        height = int(sha[i], 16) / 16 * tall
        colour = f"#{sha[10:16]}"
        draw.rectangle([i * wide / 8 + 4, tall - height, (i + 1) * wide / 8 - 4, tall], fill=colour)
    return image
