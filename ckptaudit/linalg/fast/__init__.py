"""Routines of BLAS and LAPACK that torch does not offer."""
