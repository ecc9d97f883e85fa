"""Named damages that a check must notice, one file per kind of evidence."""
