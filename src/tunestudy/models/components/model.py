"""InternVL with components as a class of its own, so that transformers builds, loads and saves them with the rest."""

from pathlib import Path
from typing import Any

from transformers import InternVLForConditionalGeneration

from tunestudy.config.components import VisionComponents
from tunestudy.models.components.parts import add_parts
from tunestudy.models.stored import COMPONENTS_FILE
from tunestudy.records.atomic import write_json


class InternVLWithComponents(InternVLForConditionalGeneration):  # type: ignore[misc]
    """`from_pretrained(folder, components=…)` loads their tensors; `save_pretrained` writes their settings too."""

    def __init__(self, config: Any, components: VisionComponents) -> None:
        super().__init__(config)
        self.components = components
        add_parts(self, components)

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> None:
        super().save_pretrained(save_directory, **options)
        write_json(Path(save_directory) / COMPONENTS_FILE, self.components.model_dump(mode="json"))

    @classmethod
    def is_custom_code(cls) -> bool:
        """transformers maps InternVL's names of weights between disk and modules, but not those of foreign classes."""
        return False
