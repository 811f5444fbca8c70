"""A recording held against a port: read, parse, align, judge, report."""
