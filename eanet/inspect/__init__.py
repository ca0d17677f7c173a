"""What a trained network does: attention maps, slots, what is worth what when removed, and its errors."""
