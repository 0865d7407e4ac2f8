"""What is kept from one evaluation to the next, and in which memory."""
