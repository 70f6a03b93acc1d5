"""The work of the commands replay, produce, validate and doctor, without their options."""
