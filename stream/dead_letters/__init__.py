"""Events that could not be applied: kept in files or in a topic, shown, and sent again."""
