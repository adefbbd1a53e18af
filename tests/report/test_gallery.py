"""gallery.html: the same rows for every variant, their images inside, nothing of strangers runs, nothing secret."""

import base64
import json
import re
from pathlib import Path
from urllib.parse import urlparse

import pytest
from evaluations import EVIL, make_evaluated
from hypothesis import given, settings
from hypothesis import strategies as st
from studies import Recipe, make_study

from tunestudy.records.layout import StudyDir
from tunestudy.records.picks import SHARED_ROWS, WRONG_ROWS, picked, place_of, thumbnail_name
from tunestudy.report import gallery
from tunestudy.report.build import build_report
from tunestudy.report.collect import collect
from tunestudy.report.compare import make_headline
from tunestudy.report.gallery import Album, chosen_rows, galleries

SMALL = Recipe(benchmarks=("chartqa",), seeds=(1,))
IDS = st.lists(st.text(max_size=6), unique=True, max_size=80)


@given(IDS, st.randoms())
@settings(max_examples=40)
def test_picked_rows_are_the_same_whatever_was_answered(ids: list[str], random_: object) -> None:
    wrong = set(ids[::3])
    first, second = picked(ids, wrong), picked(sorted(ids, reverse=True), set())
    assert set(second) <= set(first) and len(second) == min(SHARED_ROWS, len(ids))
    assert second == sorted(ids, key=place_of)[:SHARED_ROWS]
    extra = [row for row in first if row not in second]
    assert set(extra) <= wrong and len(first) == len(set(first)) <= SHARED_ROWS + WRONG_ROWS


def test_changed_rows_come_before_wrong_ones() -> None:
    ids = [f"r{i}" for i in range(200)]
    base, ours = [1.0] * 200, [1.0] * 200
    order = sorted(range(200), key=lambda row: place_of(ids[row]))
    lost, gained = order[150], order[160]
    ours[lost] = 0.0
    base[gained] = 0.5
    for row in order[100:140]:
        base[row] = ours[row] = 0.0
    rows = chosen_rows(ids, [base, ours], with_baseline=True)
    assert rows[:SHARED_ROWS] == order[:SHARED_ROWS]
    assert set(rows[SHARED_ROWS : SHARED_ROWS + 2]) == {lost, gained}
    assert len(rows) == SHARED_ROWS + 2 + WRONG_ROWS
    assert set(rows[SHARED_ROWS + 2 :]) <= set(order[100:140])


def test_every_card_says_what_the_files_say(vision: StudyDir) -> None:
    facts = collect(vision)
    shelves = galleries(facts, make_headline(facts))
    assert [shelf.benchmark for shelf in shelves] == ["chartqa", "mmbench_ko", "docvqa", "digits"]
    for shelf in shelves:
        lines = {}
        for variant in facts.variants:
            path = next(job for job in facts.last_jobs(variant) if job.seed == 1).scores[shelf.benchmark].predictions
            lines[variant] = {row["id"]: row for row in map(json.loads, path.read_text().splitlines())}
        assert SHARED_ROWS <= len(shelf.cards) <= gallery.MOST_CARDS
        for card in shelf.cards:
            assert [said.variant for said in card.said] == list(facts.variants)
            for said in card.said:
                row, base = lines[said.variant][card.row_id], lines["untrained"][card.row_id]
                score = row.get("score", float(row["correct"]))
                assert said.prediction == row["prediction"] and card.reference == base["reference"]
                assert (said.score, said.verdict == "right") == (score, bool(row["correct"]))
                before = base.get("score", float(base["correct"]))
                assert said.change == ("gained" if score > before else "lost" if score < before else "")
            assert len(card.images) + card.missing == len(row.get("images", []))


def test_images_are_in_the_page_and_are_the_jobs_own(vision: StudyDir) -> None:
    page = (vision.report / "gallery.html").read_text()
    inside = {base64.b64decode(data) for data in re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)}
    on_disk = {path.read_bytes() for path in vision.jobs.glob("*/eval/*.images/*.jpg")}
    assert len(inside) > 40 and inside <= on_disk
    assert not [url for url in re.findall(r'(?:src|href)="([^"]+)"', page) if urlparse(url).scheme in ("http", "https")]
    assert 'href="gallery.html"' in (vision.report / "index.html").read_text()


def test_a_row_whose_image_could_not_be_decoded_shows_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery, "SHARED_ROWS", 200)
    monkeypatch.setattr(gallery, "MOST_CARDS", 200)
    facts = collect(make_evaluated(tmp_path, SMALL, checkpoints=False))
    (shelf,) = galleries(facts, make_headline(facts))
    (card,) = [card for card in shelf.cards if card.row_id == "chart-0011"]
    assert all("truncated file" in said.problem and said.verdict == "wrong" for said in card.said)
    assert any(said.unparsed for card in shelf.cards for said in card.said)
    long = next(said.prediction for card in shelf.cards for said in card.said if said.prediction.startswith("777"))
    assert len(long) == 900


def test_an_album_takes_only_jpegs_of_known_names_until_it_is_full(tmp_path: Path) -> None:
    names = {"a" * 64: b"\xff\xd8\xff" + b"1" * 97, "b" * 64: b"<svg onload=alert(1)>", "c" * 64: b"\xff\xd8\xff" * 9}
    for sha, data in names.items():
        (tmp_path / thumbnail_name(sha)).write_bytes(data)
    (tmp_path / "secret.jpg").write_bytes(b"\xff\xd8\xffsecret")
    album = Album([tmp_path / "absent", tmp_path], 110)
    assert album.url("a" * 64) == "data:image/jpeg;base64," + base64.b64encode(names["a" * 64]).decode()
    assert album.url("b" * 64) is None, "no JPEG"
    assert album.url("c" * 64) is None, "the page is full"
    assert album.url("../secret") is None and album.url("d" * 64) is None
    assert album.url("a" * 64) is not None, "what is in already stays"


def test_text_without_images_and_without_predictions(tmp_path: Path) -> None:
    study_dir = make_study(tmp_path, Recipe(seeds=(1,)))
    build_report(study_dir)
    page = (study_dir.report / "gallery.html").read_text()
    assert page.count("<article") >= SHARED_ROWS and "<img" not in page
    for path in study_dir.jobs.glob("*/eval/*.jsonl"):
        path.unlink()
    build_report(study_dir)
    assert not (study_dir.report / "gallery.html").exists()
    assert "gallery.html" not in (study_dir.report / "index.html").read_text()


def test_text_of_strangers_and_secrets_stay_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "hf_" + "s" * 30
    study_dir = make_evaluated(tmp_path, SMALL, checkpoints=False)
    for path in study_dir.jobs.glob("*/eval/chartqa.predictions.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for row in rows:
            row |= {"prediction": f"{EVIL}{secret}", "understood": EVIL, "asked": EVIL, "images": [EVIL]}
            row["categories"] = {EVIL: f"{secret} {row['id'][-1]}", "type": EVIL}
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    build_report(study_dir)
    for name in ("gallery.html", "index.html"):
        page = (study_dir.report / name).read_text()
        assert "<img src=x" not in page and page.count("<script") == page.count("</script>"), name
    every = [path.read_text() for path in (study_dir.experiment_md, *study_dir.report.iterdir())]
    assert all(secret not in text for text in every) and "hidden" in every[0]


def test_no_more_cards_than_a_page_should_hold(vision: StudyDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery, "MOST_CARDS_IN_ALL", 40)
    facts = collect(vision)
    assert [len(shelf.cards) for shelf in galleries(facts, make_headline(facts))] == [10] * 4
