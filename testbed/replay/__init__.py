"""A recorded migration sent again, and how the destination takes it."""
