"""Makes merge.safetensors anew: small random Llamas as mergekit merges them, for `compat: mergekit`.

    python -m venv FOLDER && FOLDER/bin/pip install torch==2.13.0 mergekit==0.1.5
    PYTHONPATH=src python tests/golden/make_merge.py FOLDER/bin/mergekit-yaml

mergekit runs as a program of its own, with one thread. The file holds the inputs (`base/…`, `en/…`), the results
(`<case>/…`) and, as metadata, the cases and the versions. With `--wide SIZE` nothing is written: models of that hidden
size are merged by mergekit and by `merge.compat_mergekit`, and each case's differing elements are counted.
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

HERE = Path(__file__).parent
FILE = HERE / "merge.safetensors"
SIZE = 16
"""Of embeddings, of the inner layers and of the vocabulary."""
NAMES = ("base", "en", "ko", "ja")

TWO = {"en": {"weight": 0.6}, "ko": {"weight": 0.35}}
THREE = {**TWO, "ja": {"weight": 0.3}}
EVEN = {"en": {"weight": 0.5, "density": 0.4}, "ko": {"weight": 0.5, "density": 0.3}}
SPARSE = {"en": {"weight": 0.6, "density": 0.1}, "ko": {"weight": 0.35, "density": 0.35}}
SPARSE_THREE = {**SPARSE, "ja": {"weight": -0.4, "density": 0.5}}
BY_ROLE = {
    "en": {"weight": 0.6, "weights": {"lm_head": 0.1}, "density": 0.5, "densities": {"lm_head": 0.9}},
    "ko": {"weight": 0.3, "weights": {"lm_head": 0.8}, "density": 0.5},
}
SETTINGS: dict[str, dict[str, Any]] = {
    "linear": {"method": "linear", "models": TWO},
    "linear_three": {"method": "linear", "models": THREE},
    "linear_sum": {"method": "linear", "models": TWO, "normalize": False},
    "task_arithmetic": {"method": "task_arithmetic", "models": THREE},
    "task_arithmetic_mean": {"method": "task_arithmetic", "models": TWO, "normalize": True, "scale": 0.7},
    "ties": {"method": "ties", "models": SPARSE_THREE},
    "ties_even": {"method": "ties", "models": EVEN},
    "ties_sum": {"method": "ties", "models": SPARSE, "normalize": False, "scale": 1.5},
    "dare_linear": {"method": "dare_linear", "models": SPARSE},
    "dare_ties": {"method": "dare_ties", "models": SPARSE_THREE},
    "dare_ties_mean": {"method": "dare_ties", "models": EVEN, "normalize": True},
    "dare_ties_roles": {"method": "dare_ties", "models": BY_ROLE},
    "slerp": {"method": "slerp", "models": {"en": {}, "ko": {}}, "t": 0.3},
}
CASES: dict[str, dict[str, Any]] = {
    **{f"float32.{name}": {**one, "dtype": "float32"} for name, one in SETTINGS.items()},
    **{
        f"bfloat16.{name}": {**SETTINGS[name], "dtype": "bfloat16"}
        for name in ("linear_three", "ties", "dare_linear", "dare_ties", "slerp")
    },
}
"""Settings, but for where models are."""
SEEDS = {name: 42 + 7 * index for index, name in enumerate(CASES)}


def in_full(case: dict[str, Any]) -> dict[str, Any]:
    """What `MergeStage` takes."""
    base = {} if case["method"] in ("linear", "slerp") else {"base": "model"}
    models = {name: {"path": name, **one} for name, one in case["models"].items()}
    return {**case, **base, "models": models, "compat": "mergekit"}


def models(size: int) -> dict[str, dict[str, Tensor]]:
    """Name → tensors of a Llama of one block: a base, and three that differ from it a little."""
    random = torch.Generator().manual_seed(20230602)
    block = "model.layers.0"
    shapes = {
        "model.embed_tokens.weight": (size, size),
        f"{block}.input_layernorm.weight": (size,),
        f"{block}.self_attn.q_proj.weight": (size, size),
        f"{block}.self_attn.k_proj.weight": (size // 2, size),
        f"{block}.self_attn.v_proj.weight": (size // 2, size),
        f"{block}.self_attn.o_proj.weight": (size, size),
        f"{block}.post_attention_layernorm.weight": (size,),
        f"{block}.mlp.gate_proj.weight": (size, size),
        f"{block}.mlp.up_proj.weight": (size, size),
        f"{block}.mlp.down_proj.weight": (size, size),
        "model.norm.weight": (size,),
        "lm_head.weight": (size, size),
    }
    base = {name: torch.randn(shape, generator=random) * 0.1 + (len(shape) == 1) for name, shape in shapes.items()}
    found = {
        name: {key: tensor + 0.02 * torch.randn(tensor.shape, generator=random) for key, tensor in base.items()}
        for name in NAMES[1:]
    }
    found["en"]["model.norm.weight"] = base["model.norm.weight"].clone()  # a difference of nothing but zeros
    for name, value in {"base": 0.5, "en": 0.75, "ko": 0.25}.items():  # weighted evenly, these sum to exactly zero
        {"base": base, **found}[name][f"{block}.mlp.up_proj.weight"][0] = value
    return {"base": base, **found}


def write_model(folder: Path, tensors: dict[str, Tensor], dtype: str, size: int) -> None:
    """What mergekit reads of a model."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": size,
        "intermediate_size": size,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "vocab_size": size,
        "tie_word_embeddings": False,
        "dtype": dtype,
    }
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    cast = {name: tensor.to(getattr(torch, dtype)) for name, tensor in tensors.items()}
    save_file(cast, folder / "model.safetensors", metadata={"format": "pt"})


def as_mergekit_says(case: dict[str, Any], root: Path) -> dict[str, Any]:
    """Our settings in mergekit's language; JSON is YAML."""
    method = case["method"]

    def value(one: dict[str, Any], key: str) -> Any:
        by_role = one.get("weights" if key == "weight" else "densities")
        if not by_role:
            return one[key]
        return [*({"filter": role, "value": number} for role, number in by_role.items()), {"value": one[key]}]

    listed = [
        {"model": str(root / name), "parameters": {key: value(one, key) for key in ("weight", "density") if key in one}}
        for name, one in case["models"].items()
    ]
    said: dict[str, Any] = {"merge_method": method, "dtype": case["dtype"], "models": listed}
    if method != "linear":
        said["base_model"] = str(root / ("en" if method == "slerp" else "base"))
    options = {"normalize": case.get("normalize"), "lambda": case.get("scale"), "t": case.get("t")}
    said["parameters"] = {key: option for key, option in options.items() if option is not None}
    return said


def merged(program: Path, case: dict[str, Any], root: Path, seed: int) -> dict[str, Tensor]:
    """What mergekit makes of it."""
    with tempfile.TemporaryDirectory() as made:
        said, result = Path(made) / "merge.yml", Path(made) / "result"
        said.write_text(json.dumps(as_mergekit_says(case, root)))
        options = ["--random-seed", str(seed), "--num-threads", "1", "--no-copy-tokenizer", "--no-write-model-card"]
        subprocess.run([program, said, result, *options, "--quiet"], check=True)
        return {
            name: tensor for file in sorted(result.glob("*.safetensors")) for name, tensor in load_file(file).items()
        }


def write_inputs(root: Path, size: int) -> dict[str, dict[str, Tensor]]:
    """The models' folders, by type and name."""
    found = models(size)
    for dtype in ("float32", "bfloat16"):
        for name, tensors in found.items():
            write_model(root / dtype / name, tensors, dtype, size)
    return found


def make(program: Path) -> None:
    """The golden file."""
    versions = subprocess.run(
        [program.parent / "pip", "freeze"], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    told = dict(line.split("==") for line in versions if line.startswith(("mergekit==", "torch==")))
    with tempfile.TemporaryDirectory() as folder:
        held = {f"{name}/{key}": one for name, t in write_inputs(Path(folder), SIZE).items() for key, one in t.items()}
        for name, case in CASES.items():
            for key, tensor in merged(program, case, Path(folder) / case["dtype"], SEEDS[name]).items():
                held[f"{name}/{key}"] = tensor
    facts = {
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "seeds": json.dumps(SEEDS),
        "cases": json.dumps({name: in_full(case) for name, case in CASES.items()}),
    }
    save_file(held, FILE, metadata={**told, **facts})


def compare(program: Path, size: int) -> None:
    """Differing elements of each case between mergekit and us, on models that are too large to store."""
    from tunestudy.config.merge import MergeStage
    from tunestudy.merge import compat_mergekit
    from tunestudy.models.roles import role_of

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        write_inputs(Path(folder), size)
        for name, case in CASES.items():
            root = Path(folder) / case["dtype"]
            theirs = merged(program, case, root, SEEDS[name])
            settings = MergeStage(**in_full(case))
            inputs = {one: load_file(root / one / "model.safetensors") for one in ("base", *case["models"])}
            compat_mergekit.begin(SEEDS[name])
            wrong = values = 0
            for key in sorted(theirs):
                mine = compat_mergekit.merge_tensor(
                    key,
                    inputs["base"][key] if settings.base else None,
                    {one: inputs[one][key] for one in case["models"]},
                    settings,
                    role_of(key),
                )
                wrong += int((mine != theirs[key]).sum())
                values += mine.numel()
            print(f"{name}: {wrong} of {values} elements differ", flush=True)


def main() -> None:
    """See the top of the file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("mergekit_yaml", type=Path)
    parser.add_argument("--wide", type=int)
    options = parser.parse_args()
    if options.wide:
        compare(options.mergekit_yaml, options.wide)
        return
    make(options.mergekit_yaml)
    with safe_open(FILE, "pt") as file:
        print(f"{FILE.name}: {len(file.keys())} tensors, {FILE.stat().st_size} bytes")


if __name__ == "__main__":
    main()
