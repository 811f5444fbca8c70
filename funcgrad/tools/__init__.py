"""Tools that look on a computation from outside; none uses another."""
