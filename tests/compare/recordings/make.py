"""Makes the recordings: runs `sources/*.py` under PyTorch and stores what they show.

    python tests/compare/recordings/make.py            all of them
    python tests/compare/recordings/make.py mlp cnn    some

`NAME.port.py` beside `NAME.ipynb` is a port of it, which the tests run; one port is stored with
its outputs instead, and its source is among the others.

Beside its outputs each cell gets, in its metadata, what they show in truth: for each object that
was printed, from where to where its text goes, and its values as PyTorch had them. So a test can
hold what is parsed against what was meant. Run it again after a change to a source, and look at
the difference: with the same PyTorch only addresses, times and the unseeded draws change.
"""

import json
import os
import re
import sys
import tempfile
import warnings
from pathlib import Path

import jupytext
import nbclient
import nbformat
from jupyter_client.manager import KernelManager

from funcgrad.compare.recorded.run import _kernel_specs

HERE = Path(__file__).parent
WITNESS = f"""import sys
sys.path.insert(0, {str(HERE)!r})
import witness
del sys.path[0]
witness.witness(get_ipython())"""
COLAB = {
    "accelerator": "GPU",
    "colab": {"provenance": [], "gpuType": "T4", "toc_visible": True},
    "kernelspec": {"display_name": "Python 3", "name": "python3"},
    "language_info": {"name": "python"},
}
KAGGLE = {
    "kaggle": {"accelerator": "none", "dataSources": [], "isGpuEnabled": False},
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "papermill": {"default_parameters": {}, "duration": 4.2, "exception": None},
}


def make(source):
    """Run one source and store it."""
    notebook = jupytext.read(source, fmt="py:percent")
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "name": "python3"}}
    for place, cell in enumerate(notebook.cells):
        cell.id = f"{source.stem}-{place}".replace("_", "-")
    run(notebook)
    FORMS.get(source.stem, plain)(notebook, HERE / f"{source.stem}.ipynb")


def run(notebook):
    """Execute the cells in the order of their `run` metadata, with a witness."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "truth"
        os.environ["WITNESS"] = str(path)
        client = nbclient.NotebookClient(
            notebook,
            km=KernelManager(kernel_spec_manager=_kernel_specs()),
            timeout=120,
            record_timing=False,
        )
        with client.setup_kernel():
            notebook.cells.append(nbformat.v4.new_code_cell(WITNESS))
            client.execute_cell(notebook.cells[-1], len(notebook.cells) - 1, store_history=False)
            notebook.cells.pop()
            for cell in sorted(code, key=lambda cell: cell.metadata.pop("run", 0)):
                path.write_text("")
                client.execute_cell(cell, notebook.cells.index(cell))
                cell.outputs = [tidy(output) for output in cell.outputs]
                notes = map(json.loads, path.read_text().splitlines())
                cell.metadata = {k: v for k, v in cell.metadata.items() if k == "tags"}
                cell.metadata["truth"] = json.dumps(located(cell, list(notes)))


def tidy(output):
    """Without the places where files happen to lie on this machine."""
    text = json.dumps(output)
    text = re.sub(r"/[^\s\"'\\:;]*/(ipykernel_)[0-9]+/[0-9]+(\.py)", r"\1\2", text)
    text = re.sub(r"/[^\s\"'\\:;]*/site-packages/", "site-packages/", text)
    return nbformat.from_dict(json.loads(text))


def located(cell, notes):
    """Where in the cell's outputs each object's text goes, and its values."""
    texts = {
        "stdout": "".join(o["text"] for o in cell.outputs if o.get("name") == "stdout"),
        "result": "".join(
            o["data"]["text/plain"] for o in cell.outputs if o.output_type == "execute_result"
        ),
    }
    done = {"stdout": 0, "result": 0}
    truth = []
    for one in notes:
        kind, text = one["kind"], one["text"]
        start = texts[kind].index(text, done[kind])
        done[kind] = start + len(text)
        if one["values"] is not None:
            truth.append({"in": kind, "from": start, "to": done[kind], "values": one["values"]})
    return truth


def plain(notebook, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nbformat.write(notebook, path)


def version_3(notebook, path):
    """As before 2015."""
    old = nbformat.convert(notebook, 3)
    path.write_text(nbformat.writes(old, version=3) + "\n")


def colab(notebook, path):
    notebook.metadata = COLAB
    for place, cell in enumerate(notebook.cells):
        cell.metadata["id"] = f"x{place:011d}"
        if cell.cell_type == "code":
            cell.metadata["colab"] = {"base_uri": "https://localhost:8080/"}
            cell.metadata["outputId"] = f"c0ffee{place:02d}"
    plain(notebook, path)


def kaggle(notebook, path):
    notebook.metadata = KAGGLE
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.metadata |= {"_kg_hide-input": False, "trusted": True}
    plain(notebook, path)


def without_numbers(notebook, path):
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.execution_count = None
            for output in cell.outputs:
                if output.output_type == "execute_result":
                    output.execution_count = None
    plain(notebook, path)


def with_export(notebook, path):
    """Also as text, as a notebook is printed or pasted."""
    plain(notebook, path)
    pieces = []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            pieces.append(f"In [{cell.execution_count}]:\n{cell.source}")
            pieces += [o["text"].rstrip("\n") for o in cell.outputs if o.output_type == "stream"]
            pieces += [o["data"]["text/plain"] for o in cell.outputs if "data" in o]
    path.with_suffix(".txt").write_text("\n\n".join(pieces) + "\n", encoding="utf-8")


FORMS = {
    "autograd": with_export,
    "mlp": colab,
    "numpy_side": kaggle,
    "old_format": version_3,
    "prints": without_numbers,
    "wild": colab,
}


def store_port(source):
    """A port with its outputs stored, so that it can be compared without a kernel."""
    notebook = jupytext.read(source, fmt="py:percent")
    for place, cell in enumerate(notebook.cells):
        cell.id = f"{source.stem.replace('.', '-').replace('_', '-')}-{place}"
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "name": "python3"}}
    client = nbclient.NotebookClient(
        notebook, km=KernelManager(kernel_spec_manager=_kernel_specs()), record_timing=False
    )
    client.execute()
    plain(notebook, HERE / f"{source.stem}.ipynb")


if __name__ == "__main__":
    names = sys.argv[1:]
    for source in sorted((HERE / "sources").glob("*.py")):
        if ".port" not in source.stem and (not names or source.stem in names):
            print(source.stem, flush=True)
            make(source)
    if not names or "random_draws" in names:
        store_port(HERE / "sources" / "random_draws.port.py")
