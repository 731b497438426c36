"""The demo's data: what a large language model answered, by reading, for Python's own manual (see ``README.md`` here)."""
