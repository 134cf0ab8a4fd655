"""Between a command and its terminal: one voice for every complaint, on consoles of any alphabet."""

from __future__ import annotations

import sys
import warnings

import typer

from kneeclip.errors import KneeError, KneeWarning


def invoke(app: typer.Typer) -> None:
    """Run the command that ``sys.argv`` names, and exit with its code; alone, ``kneeclip`` shows its help.

    Raises
    ------
    KneeError
        Also for what the command line's own parser complains of: an unknown option, a missing argument.
    SystemExit
        When the command is done.
    """
    for stream in (sys.stdout, sys.stderr):  # a console of another alphabet shows "?" instead of failing
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    if len(sys.argv) == 1:
        sys.argv.append("--help")
    with warnings.catch_warnings():
        plain = warnings.showwarning  # catch_warnings puts it back
        warnings.showwarning = lambda message, category, *rest, **more: (
            typer.echo(f"Warning: {message}", err=True)
            if issubclass(category, KneeWarning)  # a sentence of ours, without the line of code that it comes from
            else plain(message, category, *rest, **more)
        )
        warnings.filterwarnings("ignore", module=r"PIL\.")  # of damaged images: read_grey says it in a sentence
        try:
            code = app(standalone_mode=False)
        except Exception as error:
            if not hasattr(error, "format_message"):  # click's errors, or those of the click that newer typers carry
                raise
            context = getattr(error, "ctx", None)
            command = f" {context.info_name}" if context is not None and context.parent is not None else ""
            what = " ".join(error.format_message().split()).rstrip(".")
            raise KneeError(what[:1].lower() + what[1:], None, f"see kneeclip{command} --help") from None
    if code == 130:  # what newer typers make of Ctrl-C; ours says what becomes of the run
        raise KeyboardInterrupt
    sys.exit(code if isinstance(code, int) else 0)
