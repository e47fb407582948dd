"""The layers of a model one by one: one protocol, over HookedTransformer and over TransformerBridge."""
