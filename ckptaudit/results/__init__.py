"""An audit's result as records, and what follows from it."""
