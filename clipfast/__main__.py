"""``python -m clipfast``: the commands of clipfast/cli/app.py."""

import sys

try:
    from clipfast.cli.app import app
except ModuleNotFoundError as error:
    sys.exit(f"the command line needs {error.name}; pip install 'clipfast[cli]'")

app(prog_name="python -m clipfast")
