"""Real node processes that write, end at any moment, and come back: what they acknowledged must be there, once."""
