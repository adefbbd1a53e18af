"""The smallest configuration of each program that can be imported, for tests to add keys to."""

LLAMA = """\
model_name_or_path: org/model
stage: sft
finetuning_type: lora
dataset_dir: ONLINE
dataset: org/one,org/two
template: qwen
"""
SWIFT = "model: org/model\ntuner_type: lora\ndataset: ['HF::org/one#500']\n"
AXOLOTL = "base_model: org/model\nlearning_rate: 1e-4\nadapter: lora\nlora_r: 8\nlora_alpha: 16\n"
AXOLOTL += "lora_target_linear: true\n"
AXOLOTL += "datasets: [{path: org/one, type: alpaca}]\n"
TRL = "model_name_or_path: org/model\ndataset_name: org/one\nuse_peft: true\n"
