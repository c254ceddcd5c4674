"""Limits of what is read: far beyond usual models, far below what exhausts memory."""

LARGEST_SIDE = 8_192
"""Pixels of an image's height or width."""
LARGEST_IMAGE = 2**28
"""Numbers of an image, over all channels: 1 GiB in float32."""
MOST_CHANNELS = 4_096
"""Channels of an image."""
MOST_CLASSES = 1_000_000
"""Classes of a dataset."""
MOST_TOKENS = 2**16
"""Patches of an image."""
MOST_BLOCKS = 512
"""Blocks of a model, or its attention layers."""
WIDEST = 2**15
"""Channels of a token."""
MOST_HEADS, LARGEST_HEAD = 1_024, 4_096
"""Heads of a layer, and channels of each."""
LARGEST_KERNEL = 1_023
"""Taps of a convolution along one axis."""
LARGEST_RATIO = 64.0
"""Hidden width of an MLP as a multiple of the embed width."""
MOST_PARAMS = 10**10
"""Parameters of a model; timm's largest has 6.7e9."""
MOST_MODULES = 10_000
"""Parts of a model, in torch's sense."""
LARGEST_OPTION = 2**16
"""Numbers among the options of timm's constructors."""
MOST_EPOCHS = 1_000_000
LARGEST_BATCH = 2**20
"""Images per step."""
MOST_REPEATS = 100
"""Trainings of one candidate."""
MOST_TRIALS = 1_000_000
MOST_WORKERS = 4_096
"""Trainings at a time, and CPU cores or GPUs of each."""
MOST_DIMENSIONS = 1_000
"""Dimensions of a recipe, values of a choice, points to try first."""
MOST_COMBINATIONS = 100_000
"""Combinations of values that layers share: the cheapest model is looked for among them."""
LARGEST_COUNT = 2**63 - 1
"""Bound on MACs or parameters, as a budget has it."""
