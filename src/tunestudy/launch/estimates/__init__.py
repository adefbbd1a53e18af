"""What a study will take before it runs: time, memory, when which job runs, and what all of it costs."""
