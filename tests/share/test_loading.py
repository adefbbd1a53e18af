"""What a folder of anyone's says of itself, on the way to the hub."""

from pathlib import Path

import pytest

from tunestudy.share.loading import adapter_base


@pytest.mark.parametrize(
    ("config", "base"),
    [
        ('{"base_model_name_or_path": "org/model", "revision": "v1"}', ("org/model", "v1")),
        ('{"base_model_name_or_path": "../base"}', None),
        ('{"base_model_name_or_path": null}', None),
        ("[1]", None),
    ],
)
def test_base_of_an_adapter(tmp_path: Path, config: str, base: tuple[str, str] | None) -> None:
    (tmp_path / "adapter_config.json").write_text(config)
    assert adapter_base(tmp_path) == base
