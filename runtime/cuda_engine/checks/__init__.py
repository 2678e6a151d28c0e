"""What holds the engine against something else: exact arithmetic, `runtime.preprocess`, `runtime.decode`.

The commands `runtime.cuda_engine.selfcheck` and `tune`, benchmarks and tests use it; what detects does not.
"""
