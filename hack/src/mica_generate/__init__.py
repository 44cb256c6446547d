"""Everything in the tree that is generated from Python: `python -m mica_generate` writes it, `--check` fails on drift."""
