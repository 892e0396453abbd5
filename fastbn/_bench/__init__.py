"""What `python -m fastbn bench` and `benchmarks/` time, and how: cases, libraries, floors, clocks.

The files here use only the public names of fastbn, for `benchmarks/` also runs them beside older
versions of it, as `benchmarks.cases` and so on.
"""
