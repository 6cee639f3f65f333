"""What results say about a paper's sentences."""
