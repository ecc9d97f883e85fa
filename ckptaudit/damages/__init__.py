"""Named damages that a check must notice, one file for each kind of evidence."""
