"""What a user starts: the command line, notebooks, one session of rows or samples."""
