"""The command `funcgrad compile`: `compiled` of a function in a file, for a terminal."""

import runpy
from typing import Any

import click

from ..._files import writable, write_whole
from ...errors import UsageError
from .call import compiled


@click.command("compile")
@click.argument("place", metavar="FILE:FUNCTION")
@click.option("--target", metavar="TARGET", help="cpu, tpu:v5e:4x4, cuda:h100:8, ...")
@click.option(
    "--args",
    "name",
    metavar="NAME",
    default="args",
    show_default=True,
    help="What FILE calls the tuple of arguments, or a function that returns it.",
)
@click.option("--json", "json_file", metavar="FILE", help="Write the report to FILE.")
@click.pass_context
def command(
    context: click.Context, place: str, target: str | None, name: str, json_file: str | None
) -> None:
    """Compile FUNCTION of FILE for a device that need not be there, and say what it costs.

    The arguments may be `jax.ShapeDtypeStruct`s; their shardings say the mesh.

    Exit status: 0 it fits or nobody knows, 1 it does not, 2 it could not be compiled.
    """
    file, _, function = place.rpartition(":")
    if json_file:
        writable(json_file)
    names = _names(file, place)
    fun, args = _named(names, function, file), _named(names, name, file)
    args = args() if callable(args) else args
    if not isinstance(args, tuple | list):
        raise UsageError(
            f"`funcgrad compile` got {name!r} of {file}, which is {type(args).__name__}, and wants"
            " a tuple of arguments, or a function that returns one"
        )
    found = compiled(fun, *args, target=target)
    click.echo(str(found))
    if json_file:
        write_whole(json_file, found.to_json() + "\n")
    context.exit(int(found.fits is False))


def _names(file: str, place: str) -> dict[str, Any]:
    if not file:
        raise UsageError(f"`funcgrad compile` got {place!r}, and wants FILE:FUNCTION")
    try:
        return runpy.run_path(file)
    except OSError as error:
        raise UsageError(
            f"`funcgrad compile` got {file!r}, which cannot be read: {error.strerror}"
        ) from error


def _named(names: dict[str, Any], name: str, file: str) -> Any:
    if name not in names:
        raise UsageError(f"`funcgrad compile` got {name!r}, and {file} has nothing of that name")
    return names[name]
