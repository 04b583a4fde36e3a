"""`gfl-lab`: one file per command, loaded when it is called, so that ``--help`` answers at once."""

from __future__ import annotations

import errno
import importlib
import os
import signal
import sys
import warnings
from typing import TextIO

import click

from gfl_lab import __version__
from gfl_lab.addresses import check_text
from gfl_lab.errors import ExitCode, GflLabError, RayGone
from gfl_lab.processes import end_at_once

_COMMANDS = {
    "init": "Copy the experiments, profiles and published tables of gfl-lab into a folder, for editing.",
    "run": "Train the missing trials of an experiment and print its table.",
    "confirm": "Compare a search's best with the defaults over several seeds.",
    "plan": "Show the trials of an experiment, their states and estimated times; nothing is trained.",
    "status": "Show the states and costs of experiments and their trials.",
    "table": "Print the AP table of an experiment.",
    "compare": "Compare two variants: by size, class and type of error.",
    "report": "Write one page for a claim: verdict, numbers, distributions, how to repeat it.",
    "diff": "Show the differences between two trials: settings, data, code, environment, numbers.",
    "verify": "Rebuild a table from the run directories and compare it with its lock file.",
    "reproduce": "Train a finished trial once more and compare its numbers.",
    "evaluate": "Evaluate a trial's weights under other test settings, or converted weights on a data set.",
    "predict": "Detect objects on images, and draw them with the distributions of their edges.",
    "published": "List every published row, with the experiment and variant that runs it or the reason why none does.",
    "dashboard": "Open the dashboard on 127.0.0.1: tables, curves, box distributions.",
    "mlflow": "Open MLflow's own UI on 127.0.0.1.",
    "sync": "Update MLflow from the run directories; nothing is doubled.",
    "data": "Check a data set, or make the generated one.",
    "import-results": "Make an experiment of detection files that other projects wrote, and print its table.",
    "import-checkpoint": "Convert weights of mmdet, GFocal, ViT-Adapter, DeiT, torchvision or PaddleDetection.",
    "doctor": "Check the installation, the machine and the run tree; --repair repairs problems.",
    "gc": "List files of the run tree that are not needed; --delete deletes them.",
}

_RENAMED = {"models": "published", "ui": "mlflow"}
"""Former names of commands: they work with a warning and are in no list."""

_UNFIT = {
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM,
    errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG,
}  # fmt: skip
"""System errors whose cause is the machine, not our code."""


class _Commands(click.Group):
    """Commands by name; each module is imported when it is called, not when help lists it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        return importlib.import_module(f"gfl_lab.cli.{name.replace('-', '_')}").command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] in _RENAMED:
            former, args = args[0], [_RENAMED[args[0]], *args[1:]]
            click.echo(f"warning: `gfl-lab {former}` is now `gfl-lab {args[0]}`", err=True)
        elif args and args[0] not in _COMMANDS:
            import difflib

            near = difflib.get_close_matches(args[0], _COMMANDS, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else f" Commands: {', '.join(_COMMANDS)}."
            raise click.UsageError(f"there is no command {args[0]!r}.{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Example:  gfl-lab run experiments/table3_qfl_dfl.yaml\n\nExit codes: 0 done, 1 internal error, 2 wrong input, 3 some trials "
    "failed, 4 unfair comparison or numbers not as recorded, 5 over budget, 6 machine unfit, 130 Ctrl-C, 143 terminated.",
)
@click.version_option(__version__, prog_name="gfl-lab")
def cli() -> None:
    """Find out whether a change to a detector really helps: from one YAML file to an AP table.

    Runs are kept under ./runs, or where GFL_LAB_HOME points.
    """


def _show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: TextIO | None = None, line: str | None = None
) -> None:
    """Print a warning about a user's file as one line, and every other one as Python does."""
    from gfl_lab.spec.renames import RenamedKeyWarning

    own = issubclass(category, RenamedKeyWarning)
    (file or sys.stderr).write(f"warning: {message}\n" if own else warnings.formatwarning(message, category, filename, lineno, line))


def main() -> None:
    """Run the command line: a user's mistake is one message and an exit code, never a traceback."""
    warnings.showwarning = _show_warning
    try:
        for text in sys.argv[1:]:
            check_text(text, "the command line")
        cli.main(prog_name="gfl-lab", standalone_mode=False)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(int(ExitCode.USAGE))
    except click.Abort:
        sys.exit(int(ExitCode.SIGINT))
    except KeyboardInterrupt:
        sys.exit(int(ExitCode.SIGINT))
    except GflLabError as error:
        from gfl_lab.cli.output import print_problems

        print_problems(error)
        if isinstance(error, RayGone):
            end_at_once(error.exit_code)
        sys.exit(int(error.exit_code))
    except BrokenPipeError:  # `| head -1`: the reader has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except Exception as error:
        if os.environ.get("GFL_LAB_DEBUG"):
            raise
        if isinstance(error, OSError) and error.errno in _UNFIT:
            where = f"{error.filename}: " if error.filename else ""
            click.echo(f"error: {where}{error.strerror}", err=True)
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                click.echo("    Finished work is kept. Free some space, and repeat the command.", err=True)
            sys.exit(int(ExitCode.UNFIT))
        if isinstance(error, ImportError) and not (error.name or "").startswith("gfl_lab"):
            click.echo(f"error: a library cannot be imported: {error}\n    `gfl-lab doctor` shows how to repair it.", err=True)
            sys.exit(int(ExitCode.UNFIT))
        click.echo(f"internal error: {type(error).__name__}: {error}\nThis is a bug in gfl-lab. GFL_LAB_DEBUG=1 shows where.", err=True)
        sys.exit(int(ExitCode.INTERNAL))


if __name__ == "__main__":
    main()
