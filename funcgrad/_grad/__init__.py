"""`backward` as functions: `vjp`, `grad` and `value_and_grad`, and what `retain=` asks for."""
