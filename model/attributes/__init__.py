"""What attributes of items and users are worth: a vector for each word, and for whoever has no events yet."""
