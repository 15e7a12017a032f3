"""What a completion is worth, part by part."""
