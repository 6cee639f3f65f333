"""MLflow's results -> tables, verdicts, figures, the page."""
