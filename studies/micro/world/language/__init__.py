"""The texts about a scene: what is true in it, captions and questions."""
