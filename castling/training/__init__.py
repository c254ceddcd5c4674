"""The Castling training scheme: data, augmentation, schedules, the loop and its checkpoints."""
