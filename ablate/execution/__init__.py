"""A list of tasks -> outcomes: in this process, by Ray Tune, or by a Ray job server."""
