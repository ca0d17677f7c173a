"""What is wrong with commands, and what the line that refuses them must hold."""

import pathlib

import yaml

from configs import digits
from eanet.run.record import Record
from helpers.bad_sweep_files import DIGITS, GRID
from helpers.commands import ROOT
from helpers.finished_runs import write_arm

_A, _IS_TEXT = "accepted: ", "text in one line"
_WHOLE, _RATE = "a whole number from", "a number from 0 to below 1"
_ATTENTIONS = "external or self or induced or linear or random or conv or none"

# Fields of the configuration with a value that they do not take, and what is said to be accepted.
FIELDS = [
    *[(f"seed={value}", f"{_WHOLE} 0 to 4294967295") for value in ("-1", "4294967296", "1.5", "1e3", "x", "", "True")],
    *[(f"seed={value}", f"{_WHOLE} 0") for value in ("9" * 5000, "٣.", "0x1g", "nan", "--1", "(1,)")],
    *[(f"num_seeds={value}", f"{_WHOLE} 1 to 1024") for value in ("0", "-3", "1025", "two")],
    *[(f"seeds_per_call={value}", f"{_WHOLE} 0") for value in ("-1", "1000001", "0.5")],
    *[(f"init_from={value}", "a .keras or .weights.h5 file of the Keras example") for value in ("a\nb", "\x1b[31m")],
    ("data.name=", f"{_IS_TEXT} that is not empty"),
    ("data.name=two\nlines", f"{_IS_TEXT} that is not empty"),
    ("data.dir=\x1b[31m", _IS_TEXT),
    ("data.dir=\udcff", _IS_TEXT),
    *[
        (f"data.validation_fraction={value}", "a number above 0 and below 1")
        for value in ("0", "1", "-0.1", "nan", "2")
    ],
    ("data.image_size=-1", f"{_WHOLE} 0"),
    ("data.streaming=yes", "auto or always or never"),
    ("data.test_fraction=1", "a number above 0 and below 1"),
    *[(f"data.train_limit={value}", f"{_WHOLE} 0") for value in ("-1", "1e9", "10000000000")],
    ("fixed=('init','seed')", "a tuple of different names of init, order, augment, dropout"),
    ("data.eval_limit=-1", f"{_WHOLE} 0"),
    ("guard.loss=0.5", "a number from 1"),
    *[
        (f"model.attention={value}", "external or self or induced or linear or random or conv or none")
        for value in ("softmax", "", "External", "0")
    ],
    *[(f"model.patch_size={value}", f"{_WHOLE} 1 to 1024") for value in ("0", "-2", "1025", "2.0")],
    *[(f"model.dim={value}", f"{_WHOLE} 1 to 16384") for value in ("0", "-64", "16385", "sixty", "inf")],
    *[(f"model.depth={value}", f"{_WHOLE} 0 to 1000") for value in ("-1", "1001")],
    *[(f"model.mlp_dim={value}", f"{_WHOLE} 1 to 65536") for value in ("0", "65537")],
    *[(f"model.num_heads={value}", f"{_WHOLE} 1 to 1024") for value in ("0", "-4", "2000")],
    ("model.head_dim=-1", f"{_WHOLE} 0 to 16384"),
    ("model.dim_coefficient=0", f"{_WHOLE} 1 to 1024"),
    *[(f"model.memory_size={value}", f"{_WHOLE} 0 to 65536") for value in ("-1", "65537")],
    ("model.normalization=softmax", "double or tokens or slots or l2_gelu"),
    ("model.key_source=tokens", "input or learned"),
    ("model.value_source=True", "input or learned"),
    ("model.mixing_seed=-1", f"{_WHOLE} 0 to 4294967295"),
    ("model.conv_dim=65537", f"{_WHOLE} 0 to 65536"),
    *[(f"model.memory_bias={value}", "True or False") for value in ("maybe", "2", "")],
    *[(f"model.attention_dropout={value}", _RATE) for value in ("1", "1.0", "-0.1", "nan", "inf", "half")],
    ("model.projection_dropout=1", _RATE),
    ("model.mlp_dropout=1.5", _RATE),
    ("model.gelu=exact", "tanh or erf"),
    ("model.dtype=float64", "float32 or bfloat16"),
    ("augment.rotation=0.6", "a number from 0 to 0.5"),
    ("augment.contrast=1", _RATE),
    ("augment.zoom=-inf", _RATE),
    ("augment.flip=2", "True or False"),
    *[(f"optimizer.learning_rate={value}", "a number above 0") for value in ("0", "-1", "nan", "inf", "1e4", "fast")],
    *[(f"optimizer.weight_decay={value}", "a number from 0 to 1000") for value in ("-1e-4", "nan", "1e400")],
    ("optimizer.variant=sgd", "optax or keras"),
    ("optimizer.schedule=linear", "constant or cosine"),
    ("optimizer.warmup_epochs=-1", "a number from 0"),
    ("optimizer.clip_norm=nan", "a number from 0"),
    *[(f"train.batch_size={value}", f"{_WHOLE} 1 to 1000000") for value in ("0", "-64", "1000001", "64.0")],
    ("train.microbatch=-1", f"{_WHOLE} 0"),
    *[(f"train.epochs={value}", f"{_WHOLE} 1 to 1000000") for value in ("0", "-1", "1e6", "1000001")],
    *[(f"train.label_smoothing={value}", _RATE) for value in ("1", "nan")],
    ("train.steps_per_call=-1", f"{_WHOLE} 0"),
    ("guard.zeros=1.5", "a number from 0 to 1"),
    ("guard.input_difference=-1", "a number from 0"),
    ("checkpoint.every_epochs=0", f"{_WHOLE} 1"),
    ("checkpoint.keep=0", f"{_WHOLE} 1"),
    ("inspect.every_epochs=-1", f"{_WHOLE} 0"),
    ("wandb.mode=on", "auto or online or offline or disabled"),
    ("wandb.project=", f"{_IS_TEXT} that is not empty"),
    ("wandb.group=a\nb", _IS_TEXT),
    ("wandb.tags=('',)", "a tuple of texts"),
    ("wandb.tags=(1,)", "a tuple of texts"),
    *[(f"vary.learning_rate={value}", "a tuple of different values") for value in ("(1e-3,1e-3)", "(0,)", "('a',)")],
    *[(f"vary.label_smoothing={value}", "a tuple of different values") for value in ("(1.0,)", "(0.1,(0.2,))", "(((")],
    (f"vary.weight_decay=(1{'0' * 400},)", "a tuple of different values"),
    (f"vary.weight_decay={'(' * 5000}", "a tuple of different values"),
]

# Overrides of configs/digits.py (1,149 training images of 8×8), and all that the line must hold.
TOGETHER = [
    (["model.num_heads=3"], ["config.model.num_heads=3", "config.model.dim=32"]),
    (["model.dim_coefficient=5"], ["config.model.dim_coefficient=5", "config.model.dim=32"]),
    (["model.attention=self", "model.head_dim=0", "model.num_heads=5"], ["num_heads=5", "dim=32"]),
    (["train.microbatch=48"], ["config.train.microbatch=48", "config.train.batch_size=64"]),
    (["model.patch_size=3"], ["config.model.patch_size=3", "8×8"]),
    (["model.patch_size=16"], ["config.model.patch_size=16", "8×8"]),
    (["train.batch_size=1150"], ["config.train.batch_size=1150", "accepted: at most 1149"]),
    (["data.train_limit=63"], ["config.train.batch_size=64", "accepted: at most 63"]),
    (["data.eval_limit=361"], ["config.data.eval_limit=361", "accepted: 0 (all) to 360"]),
    (["data.train_limit=1150"], ["config.data.train_limit=1150", "accepted: 0 (all) to 1149"]),
    (["data.image_size=16"], ["config.data.image_size=16 with config.data.name=digits", "accepted: 0"]),
    (["data.name=folder"], ["config.data.dir=''", "accepted: a folder of images by class"]),
    (["data.name=folder", "data.dir=nothing"], ["config.data.dir=nothing does not exist", "accepted: a folder"]),
    (["data.validation_fraction=0.9999"], ["config.data.validation_fraction=0.9999", "1437", "empty"]),
    (["data.validation_fraction=1e-20"], ["config.data.validation_fraction=1e-20", "1437", "empty"]),
    (["seed=4294967295", "num_seeds=2"], ["config.num_seeds=2", "config.seed=4294967295", _A]),
    (["num_seeds=1024", "vary.weight_decay=(0.0,1.0)"], ["config.num_seeds=1024", "2048", "accepted: at most 1024"]),
    (["optimizer.warmup_epochs=41"], ["config.optimizer.warmup_epochs=41", "config.train.epochs=40"]),
    (["data.name=no_such_set"], ["config.data.name=no_such_set", "accepted: digits or a TFDS data set"]),
    (["data.name=../digits"], ["config.data.name=../digits", "accepted: digits or a TFDS data set"]),
    (["data.name=huggingface:mnist"], ["config.data.name=huggingface:mnist", _A]),
    (["data.name=" + "x" * 100_000], ["config.data.name=xxx", "accepted: digits or a TFDS data set"]),
    (["data.name=cifar100", "data.dir=file"], ["config.data.dir=file", "is a file; accepted: a TFDS directory"]),
    (["data.name=cifar100", "data.dir=file/deep"], ["config.data.dir=file/deep", "is a file; accepted"]),
    (["model.dim=16384", "model.depth=1000", "model.mlp_dim=65536"], ["dim=16384, depth=1000", "accepted: sizes that"]),
    (["model.dim=16384", "model.depth=20", "num_seeds=1024"], ["dim=16384", "1024 times", "accepted: sizes that"]),
    (
        ["model.memory_size=65536", "model.num_heads=32", "model.dim_coefficient=1024", "model.depth=1000"],
        ["config.model", "num_heads=32", "GiB", "accepted: sizes that"],
    ),
    (
        ["model.attention=self", "model.num_heads=1024", "model.head_dim=16384", "model.dim=16384"],
        ["config.model", "num_heads=1024", "GiB", "accepted: sizes that"],
    ),
    (
        [
            "model.attention=self",
            "model.patch_size=1",
            "model.num_heads=1024",
            "model.depth=1000",
            "train.microbatch=1000",
            "train.batch_size=1000",
        ],
        ["config.model", "1000 images", "accepted: sizes that"],
    ),
    (["model.num_head=2"], ["config.model.num_head: no such field; did you mean config.model.num_heads?"]),
    (["model=3"], ["config.model: no such field"]),
    (["nothing.at.all=3"], ["config.nothing.at.all: no such field; --help"]),
    (["__class__=3"], ["config.__class__: no such field; --help"]),
]

# Values of init_from.
WEIGHTS = [
    ("nothing.keras", ["config.init_from=nothing.keras: no such file or directory", "accepted: a .keras"]),
    ("file", ["config.init_from=file: accepted are .keras and .weights.h5 files", _A]),
    ("noise.keras", ["config.init_from=noise.keras: not a readable Keras weights file", "accepted: a .keras"]),
    ("noise.weights.h5", ["config.init_from=noise.weights.h5: not a readable Keras weights file", _A]),
    (".", ["config.init_from=.: there is no config.json of a run", "accepted: a .keras"]),
    ("other", ["config.init_from=other: there is no checkpoint in", "accepted: a .keras"]),
    ("other/checkpoints/8", ["config.init_from=other/checkpoints/8: no such file or directory", _A]),
    ("wrong", ["config.init_from=wrong:", "config.model.dim='64'", "accepted: a .keras"]),
    ("list", ["config.init_from=list:", "holds no configuration", "accepted: a .keras"]),
    ("x" * 300, ["config.init_from=xxx", "too long", "accepted: a .keras"]),
]

# Command lines of main.py as a whole.
MAIN = [
    ([], ["--config is missing", _A]),
    (["--config="], ["--config=: no such file", _A]),
    (["--config=\x1b[31m\udcff.py"], [r"--config=\x1b[31m\udcff.py: no such file", _A]),
    (["--config=nothing.py"], ["--config=nothing.py: no such file", _A]),
    (["--config", "nothing.py"], ["--config=nothing.py: no such file", _A]),
    (["--config=."], ["--config=.: no such file", _A]),
    (["--config=noise"], ["--config", "noise", "cannot be read"]),
    (["--config=empty.py"], ["--config", "get_config"]),
    (["--config=number.py"], ["--config", "cannot be read"]),
    (["--config=tuple.py"], ["--config", "cannot be read"]),
    (
        ["--config=raises.py"],
        ["raises.py, line 6, raise ValueError('on purpose'): ValueError: on purpose"],
    ),
    (["--config=set.py"], ["config.seed={1, 2}", f"{_A}{_WHOLE} 0"]),
    (["--config=missing.py"], ["config.model", "is missing", _A]),
    (["--config=extra.py"], ["config.model.width=3: no such field"]),
    ([f"{DIGITS}:argument"], ["digits.py:argument", "cannot be read"]),
    ([f"--config={ROOT}/configs/reproduction.py:keras4"], ["'keras4'", "accepted: keras2021, keras3, vit2021, vit3"]),
    ([f"--config={ROOT}/configs/vit.py:4x"], ["vit.py:4x", "accepted: HEADSxWIDTH"]),
    ([f"--config={ROOT}/configs/learned.py:keys"], ["learned.py:keys", "accepted: key, value, both"]),
    ([f"--config={ROOT}/configs/vit.py:99999x1"], ["config.model.num_heads=99999", _A]),
    (["--config.seed=1", DIGITS, "--config.train.epochs=0"], ["config.train.epochs=0", _A]),
    ([DIGITS, "more"], ["unexpected 'more'", "--flag=value"]),
    ([DIGITS, "two\nlines"], [r"unexpected 'two\nlines'", "--flag=value"]),
    ([DIGITS, "--wordkir=x"], ["wordkir", "--help"]),
    ([DIGITS, "--config.seed"], ["config.seed", _A]),
    ([DIGITS, "--workdir=file"], ["--workdir=file is a file", "accepted: a directory, existing or new"]),
    ([DIGITS, "--workdir=file/run"], ["--workdir=file/run", "is a file; accepted: a directory, existing or new"]),
    ([DIGITS, "--workdir=" + "x" * 300], ["--workdir=xxx", "too long", "accepted: a directory"]),
    ([DIGITS, "--workdir=a\tb"], [r"--workdir='a\tb'", "accepted: a directory"]),
    ([DIGITS, "--workdir=\udcff"], ["--workdir", "accepted: a directory"]),
    ([DIGITS, "--workdir=other"], ["--workdir=", "another run", "config.seed is 7 there and 0 here"]),
]

# Command lines of the other programs.
OTHERS = [
    ("eanet.sweep", [], ["file", "--help"]),
    ("eanet.sweep", ["nothing.yaml"], ["nothing.yaml cannot be read: No such file"]),
    ("eanet.sweep", ["."], [". cannot be read: Is a directory"]),
    ("eanet.sweep", ["/dev/zero"], ["/dev/zero is not a file; accepted: a sweep file"]),
    ("eanet.sweep", ["good.yaml", "more"], ["more", "--help", "stands after --"]),
    ("eanet.sweep", ["good.yaml", "--config.seed=3"], ["--config.seed=3", "stands after --"]),
    *[("eanet.sweep", ["good.yaml", f"--jobs={n}"], [f"--jobs={n}", _A]) for n in ("0", "-1", "x", "1.5", "9" * 5)],
    *[("eanet.sweep", ["good.yaml", f"--shard={n}"], [f"--shard={n}", _A]) for n in ("0/2", "3/2", "1", "1/", "-1/2")],
    ("eanet.sweep", ["good.yaml", f"--shard=1/{'9' * 5000}"], ["--shard=1/9", _A]),
    *[
        ("eanet.sweep", ["good.yaml", f"--seeds={n}"], [f"--seeds={n}", _A])
        for n in ("a", "-1", "0,,1", "0,0", "1.0", "1,01")
    ],
    ("eanet.sweep", ["good.yaml", f"--seeds={'9' * 5000}"], ["--seeds=9", _A]),
    ("eanet.sweep", ["good.yaml", "--seeds=4294967296"], ["config.seed=4294967296", _A]),
    ("eanet.sweep", ["good.yaml", "--dry"], ["--dry", "--help"]),
    ("eanet.sweep", ["bayes.yaml", "--shard=1/2"], ["--shard does not go with method=bayes"]),
    ("eanet.sweep", ["good.yaml", "--", "--config.seed=3"], ["--config.seed=3 after --", _A]),
    ("eanet.sweep", ["good.yaml", "--", "--config.model.dim=0"], ["config.model.dim=0", _A]),
    ("eanet.sweep", ["good.yaml", "--", "--config.train.epoch=2"], ["config.train.epoch: no such field"]),
    ("eanet.sweep", ["good.yaml", "--", "--workdir=x"], ["--workdir=x after --", _A]),
    ("eanet.sweep", ["good.yaml", "--", "seed=3"], ["unexpected 'seed=3'", "--flag=value"]),
    ("eanet.evaluate", [], ["--workdir", "--config", "--help"]),
    ("eanet.evaluate", ["--workdir=other", DIGITS], ["--workdir", "--config", "only one", "--help"]),
    ("eanet.evaluate", ["--workdir=other", "--config.seed=1"], ["unexpected '--config.seed=1'", "--help"]),
    ("eanet.evaluate", [DIGITS], ["config.init_from=''", "accepted: a .keras"]),
    ("eanet.evaluate", [DIGITS, "--config.init_from=nothing"], ["config.init_from=nothing: no such file", _A]),
    ("eanet.evaluate", [DIGITS, "--config.init_form=nothing"], ["config.init_form", "did you mean config.init_from?"]),
    ("eanet.evaluate", [DIGITS, "more"], ["unexpected 'more'", "--flag=value"]),
    ("eanet.evaluate", ["--workdir"], ["--workdir", "--help"]),
    ("eanet.evaluate", ["--workdir=nothing"], ["--workdir=nothing does not exist", _A]),
    ("eanet.evaluate", ["--workdir=file"], ["--workdir=file is a file", _A]),
    ("eanet.evaluate", ["--workdir=file/run"], ["--workdir=file/run", "is a file", _A]),
    ("eanet.evaluate", ["--workdir=."], ["--workdir=. holds no run", _A]),
    ("eanet.evaluate", ["--workdir=other"], ["--workdir=other holds no checkpoint"]),
    ("eanet.evaluate", ["--workdir=list"], ["list/config.json holds no configuration", _A]),
    ("eanet.evaluate", ["--workdir=wrong"], ["wrong/config.json", "config.model.dim='64'", _A]),
    ("eanet.evaluate", ["--workdir=cut"], ["cut/config.json", "not a configuration", _A]),
    ("eanet.evaluate", ["--workdir=patch"], ["config.model.patch_size=3", "8×8"]),
    ("eanet.evaluate", ["--workdir=other", "--split=train"], ["--split", "'train'", "'validation', 'test'"]),
    ("eanet.evaluate", ["--workdir=other", "--spl=test"], ["--spl=test", "--help"]),
    ("eanet.evaluate", ["--workdir=other", "more"], ["more", "--help"]),
    ("eanet.compare", [], ["DIR", "--help"]),
    ("eanet.compare", ["nothing"], ["nothing does not exist", _A]),
    ("eanet.compare", ["file"], ["file is a file", _A]),
    ("eanet.compare", ["other"], ["no finished run under other"]),
    ("eanet.compare", ["x" * 300], ["DIR=xxx", "too long", _A]),
    ("eanet.compare", ["runs", "nothing"], ["nothing does not exist", _A]),
    ("eanet.compare", ["runs", "--by=heads"], ["--by: 'heads'", _A]),
    ("eanet.compare", ["runs", "--by=seed"], ["--by: 'seed'", _A]),
    (
        "eanet.compare",
        ["runs", "--baseline=model.attention=softmax"],
        ["--baseline=model.attention=softmax", "accepted is what fits one of: model.att"],
    ),
    *[
        ("eanet.compare", ["runs", f"--margin={value}"], [f"--margin={value}", "a number above 0, at most 100"])
        for value in ("0", "-1", "101", "one", "nan")
    ],
    ("eanet.compare", ["runs", "--out=file"], ["--out=file is a file", _A]),
    ("eanet.compare", ["runs", "--out=file/deep"], ["--out=file/deep", "is a file", _A]),
    ("eanet.compare", ["runs", "--nothing=1"], ["--nothing=1", "--help"]),
    ("eanet.plan", ["--deviation=1"], ["--margin", "--help"]),
    ("eanet.plan", ["--margin=1"], ["--runs or --deviation", _A]),
    ("eanet.plan", ["--margin=1", "--runs=runs", "--deviation=1"], ["--runs or --deviation", _A]),
    ("eanet.plan", ["--margin=0", "--deviation=1"], ["--margin=0", _A]),
    ("eanet.plan", ["--margin=1", "--deviation=much"], ["--deviation=much", _A]),
    ("eanet.plan", ["--margin=1", "--runs=nothing"], ["nothing does not exist", _A]),
    ("eanet.plan", ["--margin=1", "--deviation=1", "--sweep=sweep.yaml"], ["--sweep=sweep.yaml needs --runs"]),
    ("eanet.predict", ["runs"], ["IMAGE", "--help"]),
    ("eanet.predict", ["nothing", "a.png"], ["DIR=nothing does not exist", _A]),
    ("eanet.predict", [".", "a.png"], [". holds no run", _A]),
    ("eanet.predict", ["other", "a.png"], ["other holds no checkpoint"]),
    ("eanet.export", ["other"], ["--out", "--help"]),
    ("eanet.export", ["nothing", "--out=new"], ["DIR=nothing does not exist", _A]),
    ("eanet.export", ["other", "--out=file"], ["--out=file is a file", _A]),
    ("eanet.export", ["other", "--out=new"], ["other holds no checkpoint"]),
    ("eanet.data", [], ["DIR|NAME", "--help"]),
    ("eanet.data", ["digits", "--out=file"], ["--out=file is a file", _A]),
    ("eanet.data", ["digits", "--config.data.image_size=9"], ["config.data.image_size=9", _A]),
    ("eanet.data", ["other"], ["other has no class", _A]),
    ("eanet.inspect", ["nothing"], ["DIR=nothing does not exist", _A]),
    ("eanet.inspect", ["other", "--out=file"], ["--out=file is a file", _A]),
    ("eanet.inspect", ["other", "--examples=-1"], ["--examples=-1", _A]),
    ("eanet.inspect", ["other"], ["other holds no checkpoint"]),
    ("eanet.cost", [], ["--config is missing", _A]),
    ("eanet.cost", [DIGITS, "--match=nothing.py"], ["nothing.py: no such file", _A]),
    ("eanet.cost", [DIGITS, "--match=empty.py"], ["--config=empty.py", "get_config"]),
    ("eanet.cost", [DIGITS, "--match"], ["match", "--help"]),
    ("eanet.cost", [DIGITS, "--config.model.dim=0"], ["config.model.dim=0", _A]),
    ("eanet.cost", [DIGITS, "--config.model.patch_size=3"], ["config.model.patch_size=3", "8×8"]),
    ("eanet.cost", [DIGITS, "--config.data.name=no_such_set"], ["config.data.name=no_such_set", _A]),
    ("eanet.cost", [DIGITS, "more"], ["unexpected 'more'"]),
    ("eanet.dashboard", ["--nothing"], ["--nothing", "--help"]),
    ("eanet.dashboard", ["--entity"], ["--entity", "--help"]),
    ("eanet.dashboard", ["--dry-run", "--project="], ["--project=''", _A]),
    ("eanet.dashboard", ["--dry-run", "--entity=a\nb"], ["--entity=", _A]),
    ("eanet.dashboard", ["--dry-run", "more"], ["more", "--help"]),
]

# Some of every program and kind, to be run in processes of their own as well.
ALONE = [
    ("main.py", [], "--config is missing"),
    ("main.py", [DIGITS, "--config.train.batch_size=2.5", "--workdir=new"], "config.train.batch_size=2.5"),
    ("main.py", [DIGITS, "--config.model.patch_size=16", "--workdir=new"], "config.model.patch_size=16"),
    ("main.py", [DIGITS, "--config.model.num_head=2"], "did you mean config.model.num_heads?"),
    ("main.py", ["--config=\x1b[31m\udcff.py"], r"--config=\x1b[31m\udcff.py: no such file"),
    ("main.py", ["--config=raises.py"], "ValueError: on purpose"),
    ("main.py", [DIGITS, "two\nlines"], r"unexpected 'two\nlines'"),
    ("main.py", [DIGITS, "--workdir=other"], "another run"),
    ("eanet.sweep", ["nothing.yaml"], "nothing.yaml cannot be read"),
    ("eanet.sweep", ["good.yaml", "--jobs=0"], "--jobs=0"),
    ("eanet.evaluate", ["--workdir=file"], "--workdir=file is a file"),
    ("eanet.evaluate", [DIGITS, "--config.init_from=nothing"], "config.init_from=nothing: no such file"),
    ("eanet.compare", ["runs", "--out=file"], "--out=file is a file"),
    ("eanet.cost", [DIGITS, "--config.model.patch_size=3"], "config.model.patch_size=3"),
    ("eanet.dashboard", ["--dry-run", "--project="], "--project=''"),
]

_CONFIG_FILE = "from configs import digits\n\n\ndef get_config():\n    config = digits.get_config()\n    {}\n"


def prepare(directory: pathlib.Path) -> None:
    """Write what the command lines above speak of."""
    (directory / "file").write_text("a file")
    (directory / "noise").write_bytes(bytes(range(256)))
    for suffix in (".keras", ".weights.h5"):
        (directory / f"noise{suffix}").write_bytes(bytes(range(256)))
    (directory / "empty.py").touch()
    bodies = {
        "number": "return 3",
        "tuple": "return config, 3",
        "raises": "raise ValueError('on purpose')",
        "set": "del config['seed']\n    config.seed = {1, 2}\n    return config",
        "missing": "del config['model']\n    return config",
        "extra": "config.model.width = 3\n    return config",
    }
    for name, body in bodies.items():
        (directory / f"{name}.py").write_text(_CONFIG_FILE.format(body))
    (directory / "good.yaml").write_text(yaml.safe_dump(GRID))
    (directory / "bayes.yaml").write_text(yaml.safe_dump(GRID | {"method": "bayes", "run_cap": 2}))
    fields = digits.get_config().to_dict()
    model = fields["model"]
    contents = {"other": fields | {"seed": 7}, "patch": fields | {"model": model | {"patch_size": 3}}}
    contents |= {"list": [fields], "wrong": fields | {"model": model | {"dim": "64"}}}
    contents["cut"] = {name: value for name, value in fields.items() if name != "seed"}
    for name, content in contents.items():
        (directory / name).mkdir()
        Record(directory / name).write("config.json", content)
    (directory / "patch" / "checkpoints").mkdir()
    write_arm(directory / "runs", "eanet", {0: 0.4, 1: 0.42})
    write_arm(directory / "runs", "vit", {0: 0.41, 1: 0.43})
