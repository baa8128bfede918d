"""Prompts for the text encoder, and files of descriptions."""
