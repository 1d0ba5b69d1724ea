"""Measurements that anybody can repeat; each is run as `python -m benchmarks.NAME`."""
