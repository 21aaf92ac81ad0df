"""The cache lab: what each CACHE_STRATEGY costs under one load, measured on a real Redis. `python -m bench.lab`."""
