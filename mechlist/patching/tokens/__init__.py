"""Which tokens of a prompt drive the prediction of the next one: by attention, gradients, removal and noise."""
