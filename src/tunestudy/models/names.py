"""Names of tensors: those of a model's modules, and those under which its folder keeps them.

They differ where a class was rearranged after its weights were published (InternVL, Gemma 3): transformers renames
while it loads, and back when it saves. Adapters speak of modules; whoever works on files must map.
"""

from collections.abc import Iterable
from pathlib import Path


def names_on_disk(folder: Path, stored: Iterable[str], *, trust_remote_code: bool = False) -> dict[str, str]:
    """Name in the model → name in `folder`'s files, of the tensors `stored` that loading takes as they are.

    Those that it splits or joins (a mixture's experts) are left out. Builds the model without weights. Raises
    ValueError for one of code of its own that is not to be trusted; asked for nothing, transformers would ask a person.
    """
    import torch
    from transformers import AutoConfig
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    from tunestudy.models.origin import Origin, class_of

    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    model_class, extra = class_of(config, Origin(str(folder)))
    with torch.device("meta"):
        if extra:
            model = model_class(config, **extra)
        else:
            model = model_class.from_config(config, trust_remote_code=trust_remote_code)
    transforms = get_model_conversion_mapping(model)
    renamings = [one for one in transforms if isinstance(one, WeightRenaming)]
    converters = [one for one in transforms if isinstance(one, WeightConverter)]
    own = model.state_dict()
    found = {}
    for name in stored:
        renamed, converter = rename_source_key(name, renamings, converters, model.base_model_prefix, own)
        if renamed not in own and name in own:
            renamed, converter = name, None
        if converter is None and renamed in own:
            found[renamed] = name
    return found
