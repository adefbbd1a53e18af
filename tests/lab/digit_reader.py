"""The tiny model of studies that real hosts and clusters carry out: it reads digits."""

MODEL = """\
model:
  architecture: qwen3
  config: {hidden_size: 32, intermediate_size: 48, num_hidden_layers: 2, num_attention_heads: 2, num_key_value_heads: 1,
           head_dim: 16, max_position_embeddings: 128, tie_word_embeddings: true}
  tokenizer: {type: characters, alphabet: "0123456789abcdefg\\n="}
"""
