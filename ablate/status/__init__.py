"""What a storage holds: plans and trainings, how far they are, why they failed, what they take."""
