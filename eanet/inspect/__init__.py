"""What a trained network does: attention maps, slots, the effect of removing parts, and errors."""
