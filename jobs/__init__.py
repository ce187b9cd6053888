"""Commands. Each reads tables, calls pipelines or models, and writes tables; no arithmetic of its own."""
