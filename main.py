"""Train one configuration: python main.py --config=configs/eanet.py [--config.FIELD=VALUE …] [--workdir=DIR].

The same command resumes where it stopped; a finished run is left as it is.
"""

# The work is in eanet.train, where it can be tested.

from eanet.run.interruption import Interruption

interruption = Interruption(may_exit=True)
if __name__ == "__main__":
    interruption.__enter__()  # before the imports: they take seconds, in which a signal should be heard as well

import os
import sys

from absl import app, flags
from ml_collections import config_flags

from eanet import cli
from eanet.train import train

_CONFIG = config_flags.DEFINE_config_file("config", None, "Configuration file.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", "", "Directory of the run.")


def main(argv: list[str]) -> None:
    """Train what the flags describe."""
    cli.check_no_rest(argv)
    config_file = config_flags.get_config_filename(flags.FLAGS["config"])
    workdir = _WORKDIR.value or cli.default_workdir(config_file, _CONFIG.value)
    cli.check_directory("--workdir", workdir)
    train(_CONFIG.value, workdir, interruption)


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow's notices, where a data set is prepared
    cli.keep_going_without_output()
    sys.exit(cli.run(lambda: app.run(main, flags_parser=cli.parse_flags)))
