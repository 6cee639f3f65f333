"""Tables, claims, figures and the report page."""
