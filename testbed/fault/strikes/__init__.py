"""What a strike does to the elements that pass, and the way on that they leave by."""
