"""A computation as a picture, `graph`, with the values and gradients of what has a name.

A traced program becomes a model of nodes, groups and edges (`build`), which is made small enough to
look at (`fold`), told what a run of the program gave (`known`), and written in the language of
Graphviz (`dot`), which lays it out and draws it (`picture`).
"""

from .picture import Picture as Picture
from .picture import graph as graph
