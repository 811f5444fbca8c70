"""The keywords of `grad` and `value_and_grad`, by the form of the result that they ask for."""

from typing import Any, Literal, Required, TypedDict

from .chosen_tags import Names, Retain


class Keywords(TypedDict, total=False):
    """Those that the form does not depend on."""

    gradient: Any
    requires_grad: Any
    allow_unused: bool
    materialize_grads: bool


class Plain(Keywords, total=False):
    """Gradients alone."""

    has_aux: Literal[False]
    retain: None


class Named(Keywords, total=False):
    """Gradients, and retained intermediates."""

    has_aux: Literal[False]
    retain: Required[Names]


class WithAux(Keywords, total=False):
    """Gradients, and auxiliary data."""

    has_aux: Required[Literal[True]]
    retain: None


class WithAuxNamed(Keywords, total=False):
    """Gradients, auxiliary data, and retained intermediates."""

    has_aux: Required[Literal[True]]
    retain: Required[Names]


class Either(Keywords, total=False):
    """A form that is known at run time only."""

    has_aux: Required[bool]
    retain: Retain
