"""Benchmarks: their page, and other queues measured beside streamq. Those of streamq itself are `streamq bench`."""
