"""What people open: HTML, figures, and files of labels."""
