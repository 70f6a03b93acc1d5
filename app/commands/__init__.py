"""What the commands do, without their options: replay, produce, validate, doctor."""
