"""Components of InternVL's vision pipeline: rope2d, pyramid and c_abstractor.

A published model with components is loaded by

    from tunestudy.models.components import load_vision_model
    model = load_vision_model(folder)
"""

from tunestudy.models.components.load import load_vision_model

__all__ = ["load_vision_model"]
