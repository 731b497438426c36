"""The demo's data: what a large language model answered for Python's own manual (``README.md`` here says how)."""
