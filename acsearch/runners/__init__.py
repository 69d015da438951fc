"""How a candidate is scored and finetuned: looked up in a recorded table, or trained; and the plan of it."""
