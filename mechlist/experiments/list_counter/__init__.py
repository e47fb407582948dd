"""Does the residual stream hold the number of the item, and does the decision to end a list read it there?"""
