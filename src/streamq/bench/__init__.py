"""The benchmarks: `streamq bench latency | load | throughput | …` (extra `bench`).

Every scenario is one small file with one function in `scenarios/`. It measures streamq beside the floor, which is the
same work in plain PyMongo: on the same server, with the same durability, in short rounds that take turns. What they
share:

    options, run     what every scenario can be told; its time, its server, its turns, its answer
    place, machine   a database of its own; what the figures were measured on
    cast, actor      processes that play producers and consumers, and that end with the run whatever ends it
    floor/, ours/    what they play: plain PyMongo, and streamq as its users use it
    latencies, result, plot, compare   what comes out

A bench uses streamq as its users do (the public files, and the store as `StreamQ.on` takes it), and nothing but the
command line imports it. Instants are nanoseconds of the monotonic clock, which all processes of a machine share.
"""
