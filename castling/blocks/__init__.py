"""The parts of a block besides its operator: closed forms here, torch modules in `modules`."""
