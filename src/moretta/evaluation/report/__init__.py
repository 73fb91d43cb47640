"""What an evaluation leaves behind: report.json (schema.py), figures, and the page made from both."""
