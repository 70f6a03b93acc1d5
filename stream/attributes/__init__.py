"""What users and items are said to be, beside the events: values by time, as tokens."""
