"""What is said where the hub cannot be reached; tests run with HF_HUB_OFFLINE."""

from pathlib import Path

import pytest

from tunestudy.config.data import HubDataset
from tunestudy.config.errors import Exit, StudyError
from tunestudy.config.model import ModelConfig
from tunestudy.data.sources import Folders
from tunestudy.data.sources.hub import read
from tunestudy.models.origin import find_origin, load_tokenizer, pretrained

NOT_HERE = r"org/away is not in the hub's cache, and the hub cannot be reached; `tunestudy fetch STUDY`"


def test_what_was_not_fetched_says_how_to(tmp_path: Path) -> None:
    settings = ModelConfig(model_name_or_path="org/away")
    with pytest.raises(StudyError, match=NOT_HERE) as model:
        pretrained(find_origin(settings, tmp_path), settings, "cpu")
    with pytest.raises(StudyError, match=NOT_HERE):
        load_tokenizer(settings, tmp_path)
    with pytest.raises(StudyError, match=r"org/away cannot be loaded.*`tunestudy fetch STUDY`") as data:
        next(read(HubDataset(name="org/away"), Folders(tmp_path, tmp_path)))
    assert model.value.exit_code == data.value.exit_code == Exit.PREFLIGHT_REFUSED
