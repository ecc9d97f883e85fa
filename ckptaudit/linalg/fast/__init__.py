"""The routines that are compiled here or called in LAPACK."""
