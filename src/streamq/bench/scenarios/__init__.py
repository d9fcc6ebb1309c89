"""One scenario a file, one function a scenario: its options, its rounds, its answer."""
