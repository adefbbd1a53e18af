"""Stages whose model has components: trained, stopped, sliced, published and gone on from as any other."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from shell import succeed
from stops import Crash, CrashAt
from tinyjob import ADAPTER, ALPHABET, facts_of, make_job, run
from tinyranks import ENVIRONMENT
from tinyvision import ALL, INTERNVL

from tunestudy.models.components import load_vision_model
from tunestudy.models.results import load_result

CONFIG = {key: value for key, value in INTERNVL.items() if key != "image_token_id"}  # the tokenizer's own is taken
MODEL = {"architecture": "internvl", "config": CONFIG, "tokenizer": {"type": "characters", "alphabet": ALPHABET}}
TEXT_ONLY: dict[str, Any] = {"model": MODEL, "train": ["language_model", "lm_head"], "max_steps": 4, "save_steps": 2}


def test_a_lineage_of_stages(tmp_path: Path) -> None:
    """Components come with the first stage, an adapter with the second; killed and run again, both end the same."""
    first = make_job(tmp_path, "first", components=ALL, full_save_steps=2, **TEXT_ONLY)
    assert run(first)
    assert json.loads((first.model / "components.json").read_text())["c_abstractor"]["num_queries"] == 9
    assert load_vision_model(first.model).components.named == ("rope2d", "pyramid", "c_abstractor")
    table = {row["role"]: row for row in json.loads(first.result_json.read_text())["roles"]}
    assert table["projector"]["params"] > 0 and table["projector"]["trainable"] == 0
    lora = {**TEXT_ONLY, "train": "none", "adapter": {**ADAPTER, "target": "language_model"}, "init": "continue"}
    quiet = make_job(tmp_path, "second", after=first, full_save_steps=2, save_merged=True, **lora)
    assert run(quiet)
    killed = make_job(tmp_path, "third", after=first, full_save_steps=2, save_merged=True, **lora)
    with pytest.raises(Crash):
        run(killed, stop=CrashAt(4))
    assert run(killed)
    assert facts_of(killed)["weights"] == facts_of(quiet)["weights"]
    result = load_result(quiet, "cpu").model
    assert result.get_base_model().components.named == ("rope2d", "pyramid", "c_abstractor")
    merged = load_vision_model(quiet.merged)
    assert merged.config.image_seq_length == 9
    kept, fresh = load_file(quiet.merged / "model.safetensors"), load_file(first.model / "model.safetensors")
    assert kept.keys() == fresh.keys()
    assert all((kept[name] == tensor).all() for name, tensor in fresh.items() if "language_model" not in name)


@pytest.mark.slow
def test_slices_learn_from_images_as_the_whole_does() -> None:
    script = Path(__file__).parents[1] / "lab" / "sliced_components.py"
    for rank in json.loads(succeed([sys.executable, script], env=ENVIRONMENT).splitlines()[-1]):
        new = [name for name in rank if any(part in name for part in ("rope2d", "pyramid", "projector"))]
        assert len(new) > 40
        assert max(rank.values()) <= 1e-5
