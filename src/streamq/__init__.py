"""streamq: an event-driven task queue in the application's own MongoDB, for trio."""
