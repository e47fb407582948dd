"""What every residual stream makes the model go on to say."""
