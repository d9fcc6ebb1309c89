"""One program per queue. Each offers the same three functions to the run, by `bench.peers.talk`.

A program runs in the interpreter of its queue: of this package it imports `bench.peers.talk` only.
"""
