"""Measures the relay against a bare one, side by side in one run. `python -m bench --help`."""
