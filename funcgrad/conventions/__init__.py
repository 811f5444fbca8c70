"""Functions of `jax.numpy` and `jax.nn` with PyTorch's choice of gradient at kinks.

Each is named and called as in JAX, has JAX's values bit for bit, and differs only in its gradient
where that is a matter of choice: at corners, at ties, at the zero of a norm. Use them where a port
must reproduce PyTorch's gradients exactly; `docs/conventions.md` has both libraries' numbers, and
the idioms of ports with what to write instead.

Sharp edges. What PyTorch's reverse mode gives is the rule here; forward mode then agrees with it,
also where PyTorch's own does not. A function that is not here needs nothing, because the two
libraries agree at its kinks (`relu`, `maximum`, `prod`, `logsumexp`, `where`, ...); the page lists
them, and the few differences that are no convention but a fault of one or the other.
"""

from ._elementwise import abs as abs
from ._elementwise import absolute as absolute
from ._elementwise import angle as angle
from ._elementwise import arctan2 as arctan2
from ._elementwise import atan2 as atan2
from ._elementwise import celu as celu
from ._elementwise import clip as clip
from ._elementwise import copysign as copysign
from ._elementwise import elu as elu
from ._elementwise import float_power as float_power
from ._elementwise import fmax as fmax
from ._elementwise import fmin as fmin
from ._elementwise import hard_tanh as hard_tanh
from ._elementwise import hypot as hypot
from ._elementwise import ldexp as ldexp
from ._elementwise import leaky_relu as leaky_relu
from ._elementwise import pow as pow
from ._elementwise import power as power
from ._elementwise import selu as selu
from ._elementwise import sign as sign
from ._elementwise import soft_sign as soft_sign
from ._elementwise import xlog1py as xlog1py
from ._elementwise import xlogy as xlogy
from ._norms import matrix_norm as matrix_norm
from ._norms import norm as norm
from ._norms import std as std
from ._norms import vector_norm as vector_norm
from ._ties import cummax as cummax
from ._ties import cummin as cummin
from ._ties import max as max
from ._ties import median as median
from ._ties import min as min
from ._ties import nanmean as nanmean
from ._ties import nanmedian as nanmedian
from ._ties import sort as sort
