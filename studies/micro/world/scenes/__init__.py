"""What is in an image, how a scene is made from a seed, and how it is drawn."""
