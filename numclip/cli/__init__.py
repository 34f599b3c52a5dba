"""The commands that train: numclip-train, -convert, -zeroshot and -eval."""

from numclip.cli.train import main as main  # `numclip.cli:main` and `python -m numclip.cli`
