"""A study of two stages, `base` and `adapt`, whose variants and slots a test adds."""

TWO_STAGES = """\
study: small
seeds: [1, 2]
model:
  architecture: qwen3
  config: {hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2, num_key_value_heads: 2}
  tokenizer: {type: characters, alphabet: "0123456789abcdefg="}
datasets:
  d: {type: digits, trim: true, held_out: 0.2}
defaults: {data: d, effective_batch_size: 4, eval_subset_size: 8, learning_rate: 1e-3}
stages:
  base: {max_steps: 30}
  adapt: {max_steps: 20, adapter: {lora_r: 2}}
"""
