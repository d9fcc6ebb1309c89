"""First figures: how streamq compares with what plain PyMongo can do, on the same server in the same run."""
