"""The moves of a task, one file each: what it matches, what it writes, and the same on a document in memory.

Every file has `update(...)` (an update pipeline: `$$NOW` is the server's clock) and `apply(document, ...)`,
its twin for the in-memory store; the conformance suite and the model test hold the two together. Values that come
from users are wrapped in `$literal`: in a pipeline the string `"$field"` would be evaluated.
"""
