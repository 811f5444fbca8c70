"""Every public name of `jax.numpy`, its `linalg` and `fft`, and `jax.nn`: checked, or why not.

`SHARED` and `OWN` hold the functions that `gradcheck` must pass, with arguments away from kinks;
`FLAT` those of them whose derivative is zero wherever it exists; `LEFT_OUT` all other names, under
the reason. A name that JAX adds is in none of them, and test_gradcheck.py then fails and names it.
"""

import jax
import jax.numpy as jnp
import numpy as np

V = np.array([0.3, -0.7, 1.2])
W = np.array([0.9, 0.4, -1.1])
P = np.array([0.3, 0.7, 1.6])
U = np.array([-0.6, 0.2, 0.7])
G = np.array([1.3, 1.7, 2.6])
M = np.array([[0.3, -0.7, 1.2], [0.8, 0.1, -0.5]])
N = np.array([[0.6, -0.2], [0.9, 1.4], [-1.1, 0.5]])
S = np.array([[2.0, 0.3, -0.4], [0.7, 1.5, 0.2], [-0.3, 0.6, 1.1]])
H = np.array([[2.0, 0.3, -0.4], [0.3, 1.5, 0.2], [-0.4, 0.2, 1.1]])
Z = np.array([0.3 + 0.5j, -0.7 + 1.1j, 1.2 - 0.4j])
ZM = np.array([[0.3 + 0.5j, -0.7 + 1.1j], [1.2 - 0.4j, 0.8 + 0.2j]])
T = np.arange(1.0, 9.0).reshape(1, 2, 1, 4) / 4
INDEX = np.array([2, 0, 1])

MODULES = {
    "": jnp,
    "linalg.": jnp.linalg,
    "fft.": jnp.fft,
    "nn.": jax.nn,
}


def lookup(name):
    """The function of a name as the tables write it: `sin`, `linalg.inv`, `nn.relu`."""
    prefix, _, last = name.rpartition(".")
    return getattr(MODULES[f"{prefix}." if prefix else ""], last)


def public_names():
    """All public names, written so."""
    return {
        prefix + name
        for prefix, module in MODULES.items()
        for name in dir(module)
        if not name.startswith("_")
    }


# Functions of one array, by the array that all of a line share.
SHARED = [
    (
        V,
        """abs absolute arcsinh arctan array asarray asinh atan atleast_1d atleast_2d atleast_3d
        conj conjugate copy cos cosh deg2rad degrees diag diagflat diff ediff1d exp exp2 expm1 fabs
        flip i0 nan_to_num negative positive rad2deg radians ravel real sin sinc sinh square squeeze
        tan tanh""",
    ),
    (P, "cbrt log log10 log1p log2 nn.log1mexp reciprocal sqrt"),
    (U, "acos arccos arcsin arctanh asin atanh"),
    (G, "acosh arccosh"),
    (
        V,
        """nn.celu nn.elu nn.gelu nn.hard_silu nn.hard_sigmoid nn.hard_swish nn.hard_tanh
        nn.identity nn.leaky_relu nn.log_sigmoid nn.log_softmax nn.logmeanexp nn.logsumexp nn.mish
        nn.relu nn.relu6 nn.selu nn.sigmoid nn.silu nn.soft_sign nn.softmax nn.softplus
        nn.sparse_plus nn.sparse_sigmoid nn.squareplus nn.standardize nn.swish nn.tanh""",
    ),
    (
        M,
        """amax amin average cumprod cumsum diagonal fliplr flipud
        gradient matrix_transpose max mean median min nancumprod nancumsum nanmax nanmean nanmedian
        nanmin nanprod nanstd nansum nanvar prod ptp rot90 sort std sum trace transpose tril triu
        trapezoid unstack var""",
    ),
    (V, "around ceil floor rint round sign trunc zeros_like"),
    (
        S,
        """linalg.cond linalg.det linalg.diagonal linalg.inv linalg.matrix_norm
        linalg.matrix_transpose linalg.norm linalg.pinv linalg.qr linalg.slogdet linalg.svdvals
        linalg.trace linalg.vector_norm linalg.eigvals""",
    ),
    (H, "linalg.cholesky linalg.eigvalsh"),
    (
        Z,
        """angle fft.fft fft.fftshift fft.hfft fft.ifft fft.ifftshift fft.irfft imag
        sort_complex""",
    ),
    (ZM, "fft.fft2 fft.fftn fft.ifft2 fft.ifftn fft.irfft2 fft.irfftn"),
    (V, "fft.ihfft fft.rfft"),
    (M, "fft.rfft2 fft.rfftn"),
]

FLAT = {*SHARED[6][1].split(), "floor_divide", "heaviside"}


def _call(name, *args, **options):
    """A function and arguments to differentiate by; the options are fixed."""
    return lambda *given: lookup(name)(*given, **options), args


def _fixed(name, fun, *args):
    """A function of the function of that name and the arguments."""
    return lambda *given: fun(lookup(name), *given), args


BINARY = """add arctan2 atan2 copysign divide dot fmax fmin fmod floor_divide heaviside hypot inner
logaddexp logaddexp2 maximum minimum mod multiply outer polyadd polymul polysub remainder subtract
true_divide vdot vecdot linalg.outer linalg.vecdot convolve correlate kron linalg.cross cross
append divmod polydiv meshgrid broadcast_arrays"""

OWN = {name: _call(name, V, W) for name in BINARY.split()} | {
    "apply_along_axis": _fixed("apply_along_axis", lambda f, x: f(lambda r: r @ r, 1, x), M),
    "apply_over_axes": _fixed("apply_over_axes", lambda f, x: f(jnp.sum, x, [0]), M),
    "array_split": _call("array_split", V, indices_or_sections=2),
    "astype": _fixed("astype", lambda f, x: f(x, x.dtype), V),
    "bincount": _fixed("bincount", lambda f, w: f(INDEX, weights=w, length=3), V),
    "block": _fixed("block", lambda f, x, y: f([x, y]), V, W),
    "broadcast_to": _call("broadcast_to", V, shape=(2, 3)),
    "choose": _fixed("choose", lambda f, x, y: f(np.array([0, 1, 0]), [x, y]), V, W),
    "clip": _call("clip", V, np.array(-0.5), np.array(1.0)),
    "column_stack": _fixed("column_stack", lambda f, x, y: f([x, y]), V, W),
    "compress": _fixed("compress", lambda f, x: f(np.array([True, False, True]), x), V),
    "concat": _fixed("concat", lambda f, x, y: f([x, y]), V, W),
    "concatenate": _fixed("concatenate", lambda f, x, y: f([x, y]), V, W),
    "corrcoef": _call("corrcoef", M),
    "cov": _call("cov", M),
    "c_": _fixed("c_", lambda f, x, y: f[x, y], V, W),
    "cumulative_prod": _call("cumulative_prod", M, axis=1),
    "cumulative_sum": _call("cumulative_sum", M, axis=0),
    "delete": _call("delete", V, obj=1),
    "dsplit": _call("dsplit", M[None, :, :2], indices_or_sections=2),
    "dstack": _fixed("dstack", lambda f, x, y: f([x, y]), V, W),
    "einsum": _fixed("einsum", lambda f, x, y: f("ij,jk->ik", x, y), M, N),
    "expand_dims": _call("expand_dims", V, axis=0),
    "extract": _fixed("extract", lambda f, x: f(np.array([True, False, True]), x), V),
    "fill_diagonal": _fixed("fill_diagonal", lambda f, x, v: f(x, v, inplace=False), S, P),
    "float_power": _call("float_power", P, W),
    "full": _fixed("full", lambda f, v: f((2,), v), np.array(0.7)),
    "full_like": _fixed("full_like", lambda f, x, v: f(x, v), V, np.array(0.7)),
    "geomspace": _call("geomspace", np.array(0.5), np.array(2.0), num=4),
    "histogram": _fixed("histogram", lambda f, w: f(V, 2, weights=w)[0], P),
    "histogram2d": _fixed("histogram2d", lambda f, w: f(V, W, 2, weights=w)[0], P),
    "histogramdd": _fixed("histogramdd", lambda f, w: f(np.stack([V, W], 1), 2, weights=w)[0], P),
    "hsplit": _call("hsplit", M[:, :2], indices_or_sections=2),
    "hstack": _fixed("hstack", lambda f, x, y: f([x, y]), V, W),
    "insert": _fixed("insert", lambda f, x, v: f(x, 1, v), V, np.array(0.9)),
    "interp": _call("interp", np.array([0.2, 1.1]), np.array([0.0, 0.7, 1.6]), V),
    "ldexp": _fixed("ldexp", lambda f, x: f(x, INDEX), V),
    "linspace": _call("linspace", np.array(0.5), np.array(2.0), num=4),
    "logspace": _call("logspace", np.array(0.1), np.array(0.6), num=4),
    "matmul": _call("matmul", M, N),
    "matvec": _call("matvec", M, V),
    "modf": _call("modf", V),
    "moveaxis": _call("moveaxis", M, source=0, destination=1),
    "nanpercentile": _call("nanpercentile", V, q=40.0),
    "nanquantile": _call("nanquantile", V, q=0.4),
    "pad": _call("pad", V, pad_width=1, mode="reflect"),
    "partition": _call("partition", V, kth=1),
    "percentile": _call("percentile", V, q=40.0),
    "permute_dims": _call("permute_dims", M, axes=(1, 0)),
    "piecewise": _fixed("piecewise", lambda f, x: f(x, [x < 0, x >= 0], [jnp.sin, jnp.exp]), V),
    "place": _fixed("place", lambda f, x, v: f(x, x > 0, v, inplace=False), V, W),
    "poly": _call("poly", V),
    "polyder": _call("polyder", V),
    "polyfit": _fixed("polyfit", lambda f, x, y: f(x, y, 1), V, W),
    "polyint": _call("polyint", V),
    "polyval": _call("polyval", V, W),
    "pow": _call("pow", P, W),
    "power": _call("power", P, W),
    "put": _fixed("put", lambda f, x, v: f(x, INDEX[:2], v, inplace=False), V, W[:2]),
    "put_along_axis": _fixed(
        "put_along_axis", lambda f, x, v: f(x, INDEX[:2], v, 0, inplace=False), V, W[:2]
    ),
    "quantile": _call("quantile", V, q=0.4),
    "r_": _fixed("r_", lambda f, x, y: f[x, y], V, W),
    "repeat": _call("repeat", V, repeats=2),
    "reshape": _call("reshape", M, shape=(3, 2)),
    "resize": _call("resize", V, new_shape=(2, 2)),
    "roll": _call("roll", V, shift=1),
    "rollaxis": _call("rollaxis", M, axis=1),
    "roots": _fixed("roots", lambda f, p: f(p, strip_zeros=False), np.array([1.0, -0.7, -1.2])),
    "select": _fixed("select", lambda f, x, y: f([x > 0, y > 0], [x, y]), V, W),
    "split": _call("split", V, indices_or_sections=3),
    "stack": _fixed("stack", lambda f, x, y: f([x, y]), V, W),
    "swapaxes": _call("swapaxes", M, axis1=0, axis2=1),
    "take": _fixed("take", lambda f, x: f(x, INDEX), V),
    "take_along_axis": _fixed("take_along_axis", lambda f, x: f(x, INDEX), V),
    "tensordot": _call("tensordot", M, N, axes=1),
    "tile": _call("tile", V, reps=2),
    "top_k": _fixed("top_k", lambda f, x: f(x, 2)[0], V),
    "minmax": _call("minmax", V),
    "unwrap": _call("unwrap", np.array([0.3, 5.0, 1.2])),
    "vander": _call("vander", V),
    "vecmat": _call("vecmat", W, S),
    "vectorize": _fixed("vectorize", lambda f, x, y: f(lambda a, b: a * b)(x, y), V, W),
    "vsplit": _call("vsplit", M, indices_or_sections=2),
    "vstack": _fixed("vstack", lambda f, x, y: f([x, y]), V, W),
    "where": _fixed("where", lambda f, x, y: f(V > 0, x, y), V, W),
    "linalg.eigh": _fixed("linalg.eigh", lambda f, x: _projectors(*f(x)), H),
    "linalg.lstsq": _fixed("linalg.lstsq", lambda f, a, b: f(a, b)[0], S, V),
    "linalg.matmul": _call("linalg.matmul", M, N),
    "linalg.matrix_power": _call("linalg.matrix_power", S, n=3),
    "linalg.multi_dot": _fixed("linalg.multi_dot", lambda f, x, y: f([x, y]), M, N),
    "linalg.solve": _call("linalg.solve", S, V),
    "linalg.svd": _fixed("linalg.svd", lambda f, x: f(x, compute_uv=False), M),
    "linalg.tensordot": _call("linalg.tensordot", M, N, axes=1),
    "linalg.tensorinv": _call("linalg.tensorinv", S, ind=1),
    "linalg.tensorsolve": _call("linalg.tensorsolve", S, V),
    "nn.dot_product_attention": _call("nn.dot_product_attention", T, T[:, ::-1] - 1, T / 2),
    "nn.glu": _call("nn.glu", np.concatenate([V, W])),
}


def _projectors(values, vectors):
    """What of eigenvectors does not depend on the factor each has: the matrices they project on."""
    inverse = jnp.linalg.inv(vectors)
    return values, vectors[:, :1] @ inverse[:1]


_REASONS = {
    "results are integers, bools or text, or nothing at all": """
        all allclose any argmax argmin argpartition argsort argwhere array_equal array_equiv
        array_repr array_str bitwise_count bool bool_ broadcast_shapes can_cast count_nonzero
        diag_indices diag_indices_from digitize einsum_path equal flatnonzero get_printoptions
        greater greater_equal int16 int32 int4 int64 int8 int_ int1 int2 iscomplex iscomplexobj
        isclose isdtype isfinite isin isinf isnan isneginf isposinf isreal isrealobj isscalar
        issubdtype iterable less less_equal lexsort logical_and logical_not logical_or logical_xor
        mask_indices nanargmax nanargmin ndim nonzero not_equal printoptions promote_types
        ravel_multi_index result_type searchsorted set_printoptions shape signbit size tril_indices
        tril_indices_from triu_indices triu_indices_from uint uint1 uint16 uint2 uint32 uint4
        uint64 uint8 unravel_index linalg.matrix_rank nn.get_scaled_dot_general_config""",
    "takes integers, bools or sizes alone": """
        arange bartlett bitwise_and bitwise_invert bitwise_left_shift bitwise_not bitwise_or
        bitwise_right_shift bitwise_xor blackman empty eye fromfunction fromiter gcd hamming
        hanning identity indices invert ix_ kaiser lcm left_shift mgrid ogrid ones packbits
        right_shift tri unpackbits zeros fft.fftfreq fft.rfftfreq nn.one_hot""",
    "the result does not depend on the values": "empty_like ones_like",
    "JAX has no derivative of it: it is made of bits": "frexp nextafter spacing",
    "JAX gives it no derivative": "histogram_bin_edges linalg.eig",
    "reads or writes files, buffers or text": """
        from_dlpack frombuffer fromfile fromstring load save savez""",
    "the shape of the result depends on the values; they sort, find or cut, not compute": """
        intersect1d setdiff1d setxor1d trim_zeros union1d unique unique_all unique_counts
        unique_inverse unique_values""",
    "a constant": "e euler_gamma inf nan newaxis pi index_exp s_",
    "a type, or information on types": """
        ComplexWarning bfloat16 cdouble character complex128 complex64 complex_ complexfloating
        csingle double dtype finfo flexible float16 float32 float4_e2m1fn float64 float6_e2m3fn
        float6_e3m2fn float8_e3m4 float8_e4m3 float8_e4m3b11fnuz float8_e4m3fn float8_e4m3fnuz
        float8_e5m2 float8_e5m2fnuz float8_e8m0fnu float_ floating generic iinfo inexact integer
        ndarray number object_ signedinteger single ufunc unsignedinteger""",
    "makes a function of another": "frompyfunc",
    "a module; its functions are here where they can be differentiated": """
        fft linalg nn.initializers""",
    "needs a GPU, and low precision by design": "nn.scaled_dot_general nn.scaled_matmul",
}
LEFT_OUT = {name: reason for reason, names in _REASONS.items() for name in names.split()}
