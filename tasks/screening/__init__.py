"""What screening asks of pictures: whether they can be decoded, and which look alike."""
