"""Adds `backward` as functions: `vjp`, `grad` and `value_and_grad`."""
