"""What the release gate notices: a catalogue of damages to healthy releases, and the table that docs keep of it."""
