"""Table contracts and the few plain functions every room needs. Imports nothing of ours."""
