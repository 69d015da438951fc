"""Makes the micro study's tiny encoders and its tiny LLM: `python -m studies.micro.pretrain`.

Each is trained on the small world's own images and texts, one core and a few minutes each, from seeds alone: the same
machine and the same versions give the same bytes. What comes out ships in `studies/micro/weights`.
"""

import acsearch as acsearch  # its torchvision guard, before timm and transformers
