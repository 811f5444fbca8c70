"""The one room that knows JAX's inside: programs, equations, and primitives of our own.

JAX renames the parameters of its primitives nearly every release. Whatever funcgrad reads of a
program, an equation or a tracer, and whatever it registers with JAX, stands in this folder; the
rest uses the names below, and `dataflow` where a program is needed as a graph. JAX's private
modules are not used, here or elsewhere.
"""

from . import higher_order
from .alike import compiled_once as compiled_once
from .equations import BRANCH as BRANCH
from .equations import CALL as CALL
from .equations import CARRY as CARRY
from .equations import CUSTOM as CUSTOM
from .equations import DEVICE as DEVICE
from .equations import ROW as ROW
from .equations import STEP as STEP
from .equations import TEST as TEST
from .equations import WHOLE as WHOLE
from .equations import Body as Body
from .equations import Equation as Equation
from .equations import Link as Link
from .equations import Run as Run
from .equations import Total as Total
from .equations import Trips as Trips
from .equations import anatomy as anatomy
from .equations import around as around
from .equations import equations as equations
from .equations import everywhere as everywhere
from .equations import interpret as interpret
from .equations import reenter as reenter
from .equations import reenters as reenters
from .frames import Frame as Frame
from .frames import Place as Place
from .frames import excerpt as excerpt
from .frames import expression as expression
from .frames import functions as functions
from .frames import internal as internal
from .frames import of_choice as of_choice
from .frames import of_jacobian as of_jacobian
from .frames import of_library as of_library
from .frames import of_where as of_where
from .frames import place as place
from .higher_order import going_on as going_on
from .higher_order import links as links
from .higher_order import made_on_devices as made_on_devices
from .higher_order import placements as placements
from .higher_order import straight as straight
from .meshes import is_manual as is_manual
from .meshes import mesh_of as mesh_of
from .meshes import one as one
from .meshes import placed as placed
from .meshes import placed_like as placed_like
from .meshes import spread as spread
from .meshes import varied as varied
from .meshes import varying as varying
from .meshes import with_axis as with_axis
from .meshes import without_axis as without_axis
from .primitives import Later as Later
from .primitives import Zero as Zero
from .primitives import add_tangents as add_tangents
from .primitives import axis_name as axis_name
from .primitives import computing_primitive as computing_primitive
from .primitives import def_batch as def_batch
from .primitives import def_dce as def_dce
from .primitives import def_jvp as def_jvp
from .primitives import def_partial_eval as def_partial_eval
from .primitives import def_transpose as def_transpose
from .primitives import identity_primitive as identity_primitive
from .primitives import instantiate_zeros as instantiate_zeros
from .primitives import is_linear as is_linear
from .primitives import no_tangent as no_tangent
from .primitives import tangent_of as tangent_of
from .primitives import vmap_like as vmap_like
from .recompute import recomputed as recomputed
from .residuals import derived as derived
from .residuals import hoist_casts as hoist_casts
from .residuals import origins as origins
from .trace import Jaxpr as Jaxpr
from .trace import Piece as Piece
from .trace import argument_names as argument_names
from .trace import as_function as as_function
from .trace import constants as constants
from .trace import cut as cut
from .trace import dependencies as dependencies
from .trace import function_name as function_name
from .trace import input_types as input_types
from .trace import inputs as inputs
from .trace import inside_jit as inside_jit
from .trace import is_array_type as is_array_type
from .trace import is_concrete as is_concrete
from .trace import is_literal as is_literal
from .trace import is_reference as is_reference
from .trace import is_tracer as is_tracer
from .trace import once as once
from .trace import ordered_effect as ordered_effect
from .trace import output_types as output_types
from .trace import outputs as outputs
from .trace import prune as prune
from .trace import trace as trace
from .trace import type_of as type_of
from .trace import typed as typed
from .trace import types as types
from .trace import used as used
from .trace import used_inputs as used_inputs
from .trace import value_of as value_of
from .trace import variables as variables
from .trace import without_consts as without_consts
from .traits import Trait as Trait
from .traits import axes_lost as axes_lost
from .traits import exponent as exponent
from .traits import has as has
from .traits import keeps_precision as keeps_precision
from .traits import moved as moved
from .traits import scans as scans

del higher_order
