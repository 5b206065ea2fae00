"""savevm, loadvm, delvm and info snapshots, on disk images of the model's own."""
