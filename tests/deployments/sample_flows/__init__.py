"""Small flows with the signatures of the real ones."""
