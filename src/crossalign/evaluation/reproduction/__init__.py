"""The paper's grid: its published figures, the run that measures them again, and the two side by side."""
