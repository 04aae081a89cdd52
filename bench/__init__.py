"""Measurements beside floors and peers: `python -m bench.main_job`, and what the justfile names."""
