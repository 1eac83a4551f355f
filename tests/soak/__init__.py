"""Hours of moderate load: nothing may grow."""
