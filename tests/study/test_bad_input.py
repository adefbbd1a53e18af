"""Every mistake of a study file: told at its line, in plain words, with the cure; all of them at once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tunestudy.config.errors import StudyError
from tunestudy.study.load import load_study

Edit = Callable[..., str]
Folder = Any  # the class of conftest.py


def line_of(text: str, piece: str) -> int:
    return text[: text.index(piece)].count("\n") + 1


CASES = {
    "misspelt key": ("learning_rate: 1e-3", "learnig_rate: 1e-3", "learnig_rate", "did you mean `learning_rate`?"),
    "misspelt section": ("stages:\n  base", "stagez:\n  base", "stagez", "did you mean `stages`?"),
    "misplaced: of a stage in the model": (
        "  architecture",
        "  max_length: 12\n  architecture",
        "max_length: 12",
        "it belongs in a stage",
    ),
    "misplaced: of the study in defaults": (
        "  learning_rate",
        "  seeds: [1]\n  learning_rate",
        "  seeds: [1]",
        "it belongs at the top of the file",
    ),
    "misplaced: of an adapter in the study": ("seeds:", "lora_r: 4\nseeds:", "lora_r: 4", "under a stage's `adapter:`"),
    "misplaced: of resources in a stage": (
        "  learning_rate",
        "  ranks: 2\n  learning_rate",
        "ranks: 2",
        "it belongs under `resources:`",
    ),
    "option of another type": (
        "upright: {type: digits, held_out: 0.2}",
        "upright: {type: digits, split: train, held_out: 0.2}",
        "upright: {",
        "split",
    ),
    "text for a number": (
        "learning_rate: 1e-3",
        "learning_rate: fast",
        "fast",
        "must be a number, got the text 'fast'",
    ),
    "true for a number": ("learning_rate: 1e-3", "learning_rate: true", "learning_rate: true", "a number, got true"),
    "fraction for a whole number": (
        "max_steps: 300",
        "max_steps: 2.5",
        "max_steps: 2.5",
        "a whole number, got the number 2.5",
    ),
    "quoted number": ("max_steps: 300", 'max_steps: "300"', "max_steps", "a whole number, got the text '300'"),
    "yes for true": (
        "learning_rate",
        "bf16: yes\n  learning_rate",
        "bf16",
        "must be true or false, got the text 'yes'",
    ),
    "list for a mapping": (
        "defaults:",
        "resources: [1]\ndefaults:",
        "resources",
        "must be a mapping of keys, got a list",
    ),
    "one number for a list": ("seeds: [1, 2, 3]", "seeds: 3", "seeds", "must be a list, got the number 3"),
    "no seeds": ("seeds: [1, 2, 3]", "seeds: []", "seeds", "must not be empty"),
    "seed twice": ("seeds: [1, 2, 3]", "seeds: [1, 2, 1]", "seeds", "seed 1 stands twice"),
    "below the limit": (
        "learning_rate: 1e-3",
        "learning_rate: 0",
        "learning_rate: 0",
        "must be greater than 0, got the number 0",
    ),
    "above the limit": ("held_out: 0.2}\n  rotated", "held_out: 1.5}\n  rotated", "upright: {", "must be less than 1"),
    "not finite": ("learning_rate: 1e-3", "learning_rate: .nan", ".nan", "learning_rate"),
    "unknown choice": (
        "learning_rate: 1e-3",
        "learning_rate: 1e-3\n  lr_scheduler_type: cosin",
        "cosin",
        "did you mean `cosine`?",
    ),
    "unknown role": ("learning_rate", "train: [projektor]\n  learning_rate", "projektor", "did you mean `projector`?"),
    "unknown role of a rate": (
        "learning_rate",
        "learning_rates: {visual: 1e-4}\n  learning_rate",
        "learning_rates",
        "vision_tower",
    ),
    "unknown adapter": ("learning_rate", "adapter: {type: lorra}\n  learning_rate", "lorra", "`lora`"),
    "unknown data set": (
        "data: rotated",
        "data: rotatd",
        "rotatd",
        "there is no data set `rotatd`; did you mean `rotated`?",
    ),
    "data set twice": ("data: rotated", "data: [rotated, rotated]", "adapt: {", "`rotated` stands twice"),
    "unknown data set of a benchmark": ("dataset: rotated@", "dataset: rotatet@", "rotatet", "did you mean `rotated`?"),
    "unknown type of benchmark": ("type: exact_match", "type: exact", "type: exact", "there is no type `exact`"),
    "unknown share": ("rotated@held_out", "rotated@test", "rotated@test", "`rotated@held_out` is its held-out share"),
    "nothing held out": (
        "rotated: {type: digits, rotate: 90, held_out: 0.2}",
        "rotated: {type: digits, rotate: 90}",
        "rotated@held_out",
        "`rotated` holds nothing out",
    ),
    "unknown stage": ("full: {stages: [base, adapt]}", "full: {stages: [base, adpt]}", "adpt", "did you mean `adapt`?"),
    "unknown stage that is overridden by its right name": (
        "stages: [base, adapt]\n    overrides:",
        "stages: [base, adpt]\n    overrides:",
        "adpt",
        "there is no stage `adpt`; did you mean `adapt`?",
    ),
    "stage twice": ("full: {stages: [base, adapt]}", "full: {stages: [base, base]}", "full", "comes twice"),
    "override of no stage": (
        "adapt.adapter.lora_r",
        "adabt.adapter.lora_r",
        "adabt",
        "no stage `adabt`; did you mean `adapt`?",
    ),
    "unknown variant in from": (
        "full: {stages",
        "full: {from: untraind, stages",
        "untraind",
        "did you mean `untrained`?",
    ),
    "unknown stage in from": (
        "full: {stages: [base, adapt]}",
        "full: {from: untrained@bass, stages: [adapt]}",
        "bass",
        "`untrained` has no stage `bass`; did you mean `base`?",
    ),
    "from itself": (
        "full: {stages: [base, adapt]}",
        "full: {from: full, stages: [adapt]}",
        "full:",
        "a cycle: full → full",
    ),
    "unknown baseline": (
        "seeds:",
        "report: {baseline: untraned}\nseeds:",
        "report",
        "there is no variant `untraned`; did you mean `untrained`?",
    ),
    "unknown benchmark required": (
        "seeds:",
        "report: {require: {full.acuracy: '>= 0.5'}}\nseeds:",
        "report",
        "there is no benchmark `acuracy`; did you mean `accuracy`?",
    ),
    "no condition": (
        "seeds:",
        "report: {require: {full.accuracy: about 0.5}}\nseeds:",
        "report",
        '"about 0.5" is no condition; write one like ">= 0.7"',
    ),
    "missing key": ("  learning_rate: 1e-3\n", "", "  base: {", "`learning_rate` is missing"),
    "no data": ("base: {data: upright, ", "base: {", "base:", "at least one data set"),
    "no origin of the model": ("  architecture: qwen3\n", "", "model:", "either model_name_or_path"),
    "bf16 and fp16": ("learning_rate", "bf16: true\n  fp16: true\n  learning_rate", "base: {", "exclude each other"),
    "no variants": (
        STUDY_VARIANTS := "variants:\n  untrained: {stages: [base]}\n  full: {stages: [base, adapt]}\n  lora_r{r}:\n"
        '    matrix: {r: [4, 16]}\n    stages: [base, adapt]\n    overrides:\n      adapt.adapter.lora_r: "{r}"\n',
        "",
        "study:",
        "`variants:` is missing",
    ),
    "variant without stages": ("full: {stages: [base, adapt]}", "full: {priority: 1}", "full:", "needs `stages:"),
    "effective batch that does not divide": (
        "effective_batch_size: 32",
        "effective_batch_size: 30\n  per_device_train_batch_size: 8",
        "effective_batch_size: 30",
        "30 does not divide by 8 per device × 1 rank; nearest that do: 24, 32",
    ),
    "three batch numbers that contradict": (
        "effective_batch_size: 32",
        "effective_batch_size: 32\n  per_device_train_batch_size: 8\n  gradient_accumulation_steps: 2",
        "effective_batch_size: 32",
        "32 is not 8 per device × 2 accumulation steps × 1 rank = 16",
    ),
    "nothing to train": ("learning_rate", "train: none\n  learning_rate", "train: none", "leaves nothing to train"),
    "name that is no folder name": ("study: digits", "study: digits/1", "study:", "letters, digits"),
}


@pytest.mark.parametrize("case", CASES)
def test_told_at_its_line_with_the_cure(folder: Folder, edited: Edit, case: str) -> None:
    old, new, marker, message = CASES[case]
    text = edited((old, new))
    told = folder.error(text)
    assert message in told
    assert f"study.yaml:{line_of(text, marker)}: " in told
    assert not any(word in told for word in ("pydantic", "Traceback", "validation error", "Input should", "type="))


SYNTH = "rotated: {type: synth, kind: document, count: 9, shape: docvqa, held_out: 0.2}"
ROTATED = "rotated: {type: digits, rotate: 90, held_out: 0.2}"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (ROTATED, SYNTH.replace("document", "{a: b}")),
        (ROTATED, SYNTH.replace("docvqa", "{a: b}")),
        (ROTATED, SYNTH.replace("shape:", "tasks: true, shape:")),
        (ROTATED, "rotated: {type: [digits], num_samples: 9, held_out: 0.2}"),
        ("architecture: qwen3", "architecture: qwen3\n  flash_attn: [fa2]"),
        ("learning_rate: 1e-3", "learning_rate: 1e-3\n  report_to: [{wandb: true}]"),
        ("learning_rate: 1e-3", "learning_rate: 1e-3\n  num_train_epochs: .inf"),
        ("learning_rate: 1e-3", "learning_rate: 1e-3\n  warmup_steps: .inf"),
    ],
)
def test_values_of_another_kind_are_told_and_no_traceback(folder: Folder, edited: Edit, old: str, new: str) -> None:
    assert folder.error(edited((old, new))).startswith("study.yaml:")


@pytest.mark.parametrize("section", ["datasets", "stages", "variants"])
@pytest.mark.parametrize("value", ["1.5", "[null]"])
def test_small_form_of_a_section_that_is_no_mapping(folder: Folder, section: str, value: str) -> None:
    folder.write(f"study: s\nseeds: [1]\n{section}: {value}\ntiny: {{{section}: {{a: {{}}}}}}\n")
    assert "must be a mapping of keys" in folder.error_of_file()


def test_a_size_of_the_model_that_is_no_number_is_left_to_its_class(folder: Folder, edited: Edit) -> None:
    sizes = "config: {hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2, head_dim: wide}"
    adapter = ("adapt: {data: rotated, max_steps: 200}", "adapt: {data: rotated, adapter: {lora_r: 4}}")
    assert folder.load(edited(("config: {hidden_size: 32, num_hidden_layers: 2}", sizes), adapter)).study


def test_duplicate_key_names_both_lines(folder: Folder, edited: Edit) -> None:
    text = edited(("defaults:\n", "defaults:\n  max_length: 1\n  weight_decay: 0\n  max_length: 2\n"))
    told = folder.error(text)
    second = line_of(text, "max_length: 2")
    assert told == (
        f"study.yaml:{second}: defaults.max_length: `max_length` stands here a second time; "
        f"the first is in line {second - 2}"
    )


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file(folder: Folder, edited: Edit) -> None:
    text = edited(
        ("hidden_size: 32, num_hidden_layers: 2}", "hidden_size: 32}\n  dtipe: float32"),
        ("learning_rate: 1e-3", "learning_rate: slow"),
        ("data: rotated,", "data: 7,"),
        ("full: {stages", "full: {prioritty: 1, stages"),
    )
    lines = folder.error(text).splitlines()
    assert [line.split(": ")[1] for line in lines] == [
        "model.dtipe",
        "defaults.learning_rate",
        "stages.adapt.data",
        "variants.full.prioritty",
    ]


def test_mistake_in_a_shared_stage_is_told_once(folder: Folder, edited: Edit) -> None:
    assert folder.error(edited(("max_steps: 300", "max_steps: 0"))).count("must be at least 1") == 1


def test_cycle_of_from_names_the_way(folder: Folder, edited: Edit) -> None:
    text = edited(("full: {stages: [base, adapt]}", "a: {from: b}\n  b: {from: c}\n  c: {from: a}"))
    assert "a cycle: a → b → c → a" in folder.error(text)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty; `tunestudy init`"),
        (b"# only a comment\n", "the file is empty"),
        (b"- a\n- b\n", "this is a list"),
        (b"just words\n", "this is a single value"),
        (b"study: [1\n", "this is not YAML"),
        (b"study: a: b\n", "a second `:` in this line"),
        (b"study: a\n\tseeds: [1]\n", "study.yaml:2"),
        (b"PK\x03\x04\x00\x00\xff\xfe", "not a text file"),
        (b"seeds: [1]\nstudy: caf\xe9\n", "not a text file in UTF-8, so it is no study file; its line 2 is the first"),
        ("study: a\n".encode("utf-16"), "it is in UTF-16: save it as UTF-8"),
        ("study: a\nseeds:\u00a0[1]\nstages:\n".encode(), "study.yaml:2: this is not YAML: a no-break space"),
        ("stages:\n  a: 1\n \u00a0b: 2\n".encode(), "study.yaml:3: this is not YAML: a no-break space"),
        ("seeds:\n  - 1\n  -\u00a02\n".encode(), "study.yaml:3: this is not YAML: a no-break space"),
        ("study: a\ndescription: 5\u00a0%\nseeds: 1: 2\n".encode(), "study.yaml:3: this is not YAML: a second `:`"),
        ("study: a\ndescription: 'x:\u00a0y'\nseeds: 1: 2\n".encode(), "study.yaml:3: this is not YAML: a second `:`"),
        (b"study: a\n---\nstudy: b\n", "study.yaml:2: one file holds one study"),
        (b"study: !!python/object:os.system a\n", "has no meaning here"),
        (b"study: *gone\n", "there is no `&gone` above"),
        (b"? [a, b]\n: c\n", "a key must be a plain word"),
        (b"a: " + b"[" * 500 + b"]" * 500, "nested too deeply"),
    ],
)
def test_file_that_is_no_study(folder: Folder, content: bytes, message: str) -> None:
    folder.path.write_bytes(content)
    told = folder.error_of_file()
    assert message in told


def test_entries_of_the_wrong_kind_do_not_make_a_list_empty(folder: Folder, edited: Edit) -> None:
    told = folder.error(edited(("study: digits", "study: 42"), ("seeds: [1, 2, 3]", 'seeds: ["1"]')))
    assert "must be a whole number, got the text '1'" in told and "must not be empty" not in told
    assert "must be text, got the number 42: put it in quotes" in told


def test_repetition_by_reference_is_stopped(folder: Folder) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    assert "repeated too often" in folder.error("\n".join(lines))


def test_missing_file_names_its_neighbour(folder: Folder, tmp_path: Path) -> None:
    folder.write()
    folder.path = tmp_path / "studdy.yaml"
    assert folder.error_of_file() == "studdy.yaml: there is no such file; did you mean `study.yaml`?"


def test_a_file_of_that_name_one_folder_below_is_named(tmp_path: Path) -> None:
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "mine.yaml").touch()
    (tmp_path / ".hidden.yaml").touch()
    with pytest.raises(StudyError, match=r"there is no such file; did you mean `.*studies/mine\.yaml`\?"):
        load_study(tmp_path / "mine.yaml")
    with pytest.raises(StudyError, match=r"there is no such file$"):
        load_study(tmp_path / "other.yaml")


def test_folder_and_unreadable_file(folder: Folder, tmp_path: Path) -> None:
    folder.path = tmp_path
    assert "this is a folder" in folder.error_of_file()


def test_model_and_data_that_are_not_there(folder: Folder, edited: Edit) -> None:
    text = edited(
        (
            "  architecture: qwen3\n  config: {hidden_size: 32, num_hidden_layers: 2}\n",
            "  model_name_or_path: ./modle\n",
        ),
        ("upright: {type: digits, held_out: 0.2}", "upright: {path: trian.jsonl}"),
    )
    (folder.root / "train.jsonl").write_text('{"text": "a"}\n')
    model, data = folder.error(text).splitlines()
    assert model.startswith("study.yaml:4: model.model_name_or_path: there is no folder `./modle`")
    assert data == (
        "study.yaml:7: datasets.upright.path: there is no file `trian.jsonl` (relative to the study file); "
        "did you mean `train.jsonl`?"
    )


def test_empty_data_file(folder: Folder, edited: Edit) -> None:
    (folder.root / "train.jsonl").touch()
    told = folder.error(edited(("upright: {type: digits, held_out: 0.2}", "upright: {path: train.jsonl}")))
    assert told == "study.yaml:8: datasets.upright.path: `train.jsonl` is empty"


def test_hub_ids_need_not_be_here(folder: Folder, edited: Edit) -> None:
    text = edited(
        (
            "  architecture: qwen3\n  config: {hidden_size: 32, num_hidden_layers: 2}\n",
            "  model_name_or_path: org/model\n",
        ),
        ("upright: {type: digits, held_out: 0.2}", "upright: {name: org/data}"),
    )
    assert folder.load(text).study.datasets["upright"].type == "hub"


class TestTokens:
    """A token is refused wherever it stands and never repeated."""

    HUGGING_FACE = "hf_" + "aB3" * 10
    OPENAI = "sk-" + "x" * 40
    HEX = "0123456789abcdef" * 2 + "01234567"

    @pytest.mark.parametrize("token", [HUGGING_FACE, OPENAI])
    @pytest.mark.parametrize("place", ["env: {{A: {}}}\n", "# {}\n", "description: use {} here\n", "{}: 1\n"])
    def test_refused_anywhere(self, folder: Folder, edited: Edit, token: str, place: str) -> None:
        told = folder.error(edited(("seeds:", place.format(token) + "seeds:")))
        assert told.startswith("study.yaml:2: this looks like an access token")
        assert token not in told

    def test_hex_only_under_a_secret_name(self, folder: Folder, edited: Edit) -> None:
        secret = edited(("seeds:", f"env: {{API_KEY: {self.HEX}}}\nseeds:"))
        told = folder.error(secret)
        assert told.startswith("study.yaml:2: env.API_KEY: this looks like an access token")
        assert self.HEX not in told
        revision = edited(
            (
                "  architecture: qwen3\n  config: {hidden_size: 32, num_hidden_layers: 2}\n",
                f'  model_name_or_path: org/model\n  revision: "{self.HEX}"\n',
            )
        )
        assert folder.load(revision).study.model.revision == self.HEX

    def test_on_the_command_line(self, folder: Folder, edited: Edit) -> None:
        told = folder.error(edited(), f"env.A={self.HUGGING_FACE}")
        assert "this looks like an access token" in told
        assert self.HUGGING_FACE not in told


@pytest.mark.parametrize("name", ["../../../elsewhere", "a/b", "a\\b", ".hidden", "-r", "x" * 101])
def test_names_that_lead_out_of_their_folder(folder: Folder, edited: Edit, name: str) -> None:
    quoted = name.replace("\\", "\\\\")
    told = folder.error(edited(("variants:\n", f'variants:\n  "{quoted}": {{stages: [base]}}\n')))
    assert "becomes the name of a file or folder" in told


def test_ordinary_names_are_fine(folder: Folder, edited: Edit) -> None:
    for name in ("LoRA r=4, α=8", "r16@lr1e-4", "v1.2"):
        folder.load(edited(("variants:\n", f'variants:\n  "{name}": {{stages: [base]}}\n')))


def test_files_beside_a_missing_one_are_named_in_order(folder: Folder) -> None:
    for name in "hgfedcba":
        (folder.root / f"{name}.csv").write_text("x\n")
    text = (
        folder.write()
        .read_text()
        .replace("rotated: {type: digits, rotate: 90, held_out: 0.2}", "rotated: {path: nothing}")
    )
    assert "known are: a.csv, b.csv, c.csv, d.csv, e.csv, f.csv, g.csv, h.csv, study.yaml" in folder.error(text)
