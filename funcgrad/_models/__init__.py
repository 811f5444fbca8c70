"""`named`: a model of another library as it is, its submodules' outputs tagged by their paths."""

from typing import Any, TypeVar

from .._describe import describe
from ..errors import UsageError
from . import keras, linen, pytrees

T = TypeVar("T")
_KINDS = (linen, keras, pytrees)


def named(model: T) -> T:
    """The same model, with the output of every submodule tagged by its path.

    Stands for `for name, module in model.named_modules(): module.register_forward_hook(...)`. The
    paths are those of `named_modules()` with `/` for `.`, such as `layers/0/attn`; they are asked
    for with `retain=` as names of `retain_grad` are. A tag that is made in a module stands under
    its path: `retain_grad(h, "h")` in `layers/0` is `layers/0/h`.

    Args:
        model: a module of Flax NNX, Flax Linen or Equinox; a model of Keras on JAX; a dataclass or
            another class that is registered with JAX as a pytree; dicts, lists and tuples of these
            and of functions; or one function, which is tagged by its own name.

    Returns:
        A model of the same kind, which is used in the place of `model`: `isinstance` holds, and it
        prints, copies and pickles as the model does. A module of NNX shares its variables with it.
        Of any other the arrays are the same ones, and the structure is another: name the model
        first, then make the optimizer's state of it.

    Raises:
        UsageError: `model` is of none of these kinds.

    The output of a module is what its `__call__` returns when the object is called, `layer(x)`:
    its arrays are one tagged value, and what else is in it stays as it is. Calls of other methods
    have no name, and neither has the model itself. Functions that modules hold are not modules.

    A module that lies at two places of an NNX model is one module with the first of its paths; in
    other models each place is a module of its own. `jax.named_scope` within a module's `__call__`
    stands in the names of what it calls.

    What is not affected: values, gradients, the compiled program, and `model` itself.

    >>> import jax.numpy as jnp, funcgrad as fg
    >>> layers = fg.named({"double": lambda x: 2 * x, "square": lambda x: x**2})
    >>> def loss(x):
    ...     return layers["square"](layers["double"](x))
    >>> grads, retained = fg.grad(loss, retain="double")(jnp.float32(3))
    >>> retained["double"]
    Retained(value=Array(6., dtype=float32), grad=Array(12., dtype=float32))
    """
    for kind in _KINDS:
        if kind.is_model(model):
            return kind.named(model)
    raise UsageError(
        f"`named` got {_what(model)}, and wants a model: a module of Flax or Equinox, a model of"
        " Keras, an object of a class that is registered with JAX as a pytree, dicts and lists of"
        " these and of functions, or a function with a name"
    )


def _what(model: Any) -> str:
    if isinstance(model, type):
        return f"the class {model.__qualname__}, not an object of it"
    module = type(model).__module__
    if any(
        f"{base.__module__}.{base.__name__}".startswith("torch.nn.") for base in type(model).__mro__
    ):
        return f"a module of PyTorch ({type(model).__name__}), which JAX cannot run"
    described = describe(model)
    return described if module == "builtins" or "[" in described else f"{described} of {module}"
