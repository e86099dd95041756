"""A clip on its way to features: look it up, decode and extract what is missing, store it."""
