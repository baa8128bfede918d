"""What the encoder reads about a class: prompts, and files of descriptions."""
