"""Faults, races and what they leave: see `docs/reliability.md`."""
