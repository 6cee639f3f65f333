"""Images per second beside the textbook loop."""
