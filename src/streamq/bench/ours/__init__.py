"""The same work by streamq, as its users use it; where instants within a task are wanted, on a store of the bench's own
that notes when it was called."""
