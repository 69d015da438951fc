"""The multimodal model: its parts, how it is loaded and sharded, and how many FLOPs it takes."""
