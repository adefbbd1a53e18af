"""Other programs that generate in place of transformers, one module each (`backend: vllm`)."""
