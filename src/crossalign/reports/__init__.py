"""HTML reports, figures, and output formats."""
