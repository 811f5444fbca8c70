"""Gradient accumulation: `zero_grad`, `accumulate_grad`, and `microbatch`."""
