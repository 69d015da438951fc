"""The multimodal model and its two training stages. Not built yet: studies look finetunes up in a recorded table."""
