"""What torch.save wrote, read as data: archives, state dicts, distributed checkpoints, rank files."""
