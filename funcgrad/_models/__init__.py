"""`named`: the modules of other libraries, with the output of every submodule a tag."""
