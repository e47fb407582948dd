"""What all steps of the list study say together."""
