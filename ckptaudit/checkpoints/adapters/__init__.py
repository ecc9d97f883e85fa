"""PEFT adapters: their factors, and the weights that they make of a base."""
