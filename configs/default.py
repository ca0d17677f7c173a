"""Every field of the configuration, at the Keras example's values. Other arms change a few fields of this file.

Once released, a default keeps its value and its meaning: a record written before a field existed is read with that
field's default. A field that is removed moves to RETIRED in eanet/config/stored.py.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """Return the Keras example's EANet on CIFAR-100."""
    config = ml_collections.ConfigDict()
    config.seed = 0  # of initialisation, data order, augmentation and dropout
    config.num_seeds = 1  # networks trained in one program, with the seeds seed, seed + 1, …
    config.fixed = ()  # random streams pinned to seed 0: any of init, order, augment, dropout, e.g. ('init', 'order')
    config.seeds_per_call = 0  # networks (seeds times grid points) computed at a time; 0 = chosen by platform
    config.init_from = ""  # weights to begin with: a file of the Keras example, or another run; empty = random ones
    config.matmul_precision = "float32"  # of float32 products on a GPU or TPU: float32 | tensorfloat32 | bfloat16
    config.deterministic = False  # bitwise reproducible runs on a GPU; elsewhere they always are

    # Grid of values, e.g. (1e-4, 1e-3), trained in one program, each with every seed; () = the field's own value
    config.vary = vary = ml_collections.ConfigDict()
    vary.learning_rate = ()
    vary.weight_decay = ()
    vary.label_smoothing = ()

    # Data
    config.data = data = ml_collections.ConfigDict()
    data.name = "cifar100"  # a TFDS classification set, digits (embedded), or folder (image files by class)
    data.dir = ""  # the folder, or the TFDS directory; empty = TFDS_DATA_DIR, else ~/tensorflow_datasets
    data.image_size = 0  # side in pixels to which images are resized; 0 = as they are, of one square size
    data.streaming = "auto"  # images stay on the host: auto (if they fill half of a device's memory) | always | never
    data.validation_fraction = 0.2  # last part of the training set, by record id
    data.test_fraction = 0.2  # of a folder without a test split
    data.train_limit = 0  # train on the first N images only; 0 = all
    data.eval_limit = 0  # validate and test on the first N images of each split only; 0 = all

    # Model
    config.model = model = ml_collections.ConfigDict()
    model.attention = "external"  # external | self | induced | linear | random | conv | none
    model.patch_size = 2  # pixels of a patch's side
    model.dim = 64  # channels of a token
    model.depth = 8  # encoder blocks
    model.mlp_dim = 64  # hidden channels of a block's MLP
    model.num_heads = 4  # external attention has num_heads * dim_coefficient effective heads
    model.head_dim = 64  # channels of one head, except in external attention; 0 = dim // num_heads
    model.key_source = "input"  # keys of self-attention: input | learned (one for each token position and head)
    model.value_source = "input"  # values of self-attention: the same choices
    model.dim_coefficient = 4  # expansion of channels and heads in external attention
    model.memory_size = 0  # slots of the external memories, inducing points; 0 = dim // dim_coefficient
    model.normalization = "double"  # of external attention: double | tokens | slots | l2_gelu
    model.memory_bias = True  # biases on M_k and M_v
    model.tie_memories = False  # M_v = M_k^T
    model.share_memories = False  # one pair of memories for all blocks
    model.mixing_seed = 0  # of the frozen maps of random mixing
    model.conv_dim = 0  # channels of the depthwise convolution; 0 = dim
    model.attention_dropout = 0.2  # rate, on the attention map
    model.projection_dropout = 0.2  # rate, on the attention's output
    model.mlp_dropout = 0.2  # rate, after both layers of the MLP
    model.gelu = "tanh"  # tanh (Keras 3) | erf (tf.keras)
    model.dtype = "float32"  # of activations: float32 | bfloat16

    # Augmentation, in this order; 0 or False switches a part off
    config.augment = augment = ml_collections.ConfigDict()
    augment.flip = True  # left-right, with probability one half
    augment.rotation = 0.1  # fraction of a full turn, both ways
    augment.contrast = 0.1  # factor from U(1 - x, 1 + x) about the image's channel means
    augment.contrast_upward = False  # factor from U(1, 1 + x) instead, as Keras 3.6 and later draw it
    augment.contrast_per_batch = False  # one factor for all images of a batch, as tf.keras drew it
    augment.contrast_clip = False  # Keras's fault since 2.9, only to reproduce it: configs/reproduction.py
    augment.zoom = 0.2  # height and width each from U(1 - x, 1 + x); above 1 zooms out

    # Optimizer: AdamW
    config.optimizer = optimizer = ml_collections.ConfigDict()
    optimizer.variant = "optax"  # optax | keras (epsilon joins sqrt(v) before its bias correction)
    optimizer.learning_rate = 1e-3
    optimizer.weight_decay = 1e-4  # multiplied by the learning rate, as in Keras 3 and optax
    optimizer.schedule = "constant"  # constant | cosine (to 0 at the last step)
    optimizer.warmup_epochs = 0.0  # epochs of linear increase from 0
    optimizer.clip_norm = 0.0  # global norm of the gradient; 0 = no clipping

    # Training
    config.train = train = ml_collections.ConfigDict()
    train.batch_size = 128
    train.microbatch = 0  # examples computed at a time (gradient accumulation over a batch); 0 = chosen by platform
    train.epochs = 50
    train.label_smoothing = 0.1
    train.steps_per_call = 0  # steps between two rows of training metrics; 0 = a row an epoch

    # Guards: training must see what evaluation sees, and its loss must stay within reason
    config.guard = guard = ml_collections.ConfigDict()
    guard.input_difference = 1e-6  # largest difference with augmentation at strength 0; above it the run stops
    guard.zeros = 0.05  # warn where the share of exact zeros in the input differs by more,
    guard.mean = 0.1  # or its mean, in deviations of the evaluation's,
    guard.deviation = 0.2  # or its deviation, relative to the evaluation's
    guard.loss = 20.0  # a loss above so many times ln(classes), that of uniform guessing, has diverged

    # Checkpoints
    config.checkpoint = checkpoint = ml_collections.ConfigDict()
    checkpoint.every_epochs = 1
    checkpoint.keep = 2  # newest ones that stay on disk

    # Statistics of attention maps and memories, logged with the metrics; after training, eanet.inspect gives more
    config.inspect = inspect = ml_collections.ConfigDict()
    inspect.every_epochs = 0  # 0 = never, at no cost

    # Logging
    config.wandb = wandb = ml_collections.ConfigDict()
    wandb.mode = "auto"  # auto (online where a key is found, else offline) | online | offline | disabled
    wandb.project = "eanet-jax"
    wandb.entity = ""  # empty = the account's default
    wandb.group = ""  # empty = the arm without its seed
    wandb.job_type = "train"
    wandb.tags = ()
    return config
