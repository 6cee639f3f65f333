"""How fast training and attacks are on this machine, side by side with the loops that everybody writes."""
