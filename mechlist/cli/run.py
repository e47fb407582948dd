"""`mechlist run NAME|study.yaml`: run, then write the report; its path is the last line printed."""

from pathlib import Path

from mechlist.cli.target import Target, read_target

USAGE = """usage: mechlist run NAME|study.yaml [flags]

Run an experiment by NAME, a study, or the config.yaml of an earlier run.
`mechlist list` shows the experiments; `mechlist run NAME --help` shows an experiment's flags.

  mechlist run induction                            the built-in model, offline
  mechlist run induction --model gpt2 --period 50   a model from the hub
  mechlist run runs/demo/config.yaml --out again    repeat a run"""


def main(argv: list[str]) -> int:
    """Run what the first argument names."""
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if argv else 2
    target = read_target("run", argv[0], argv[1:])
    from mechlist.cli.resume import resume_command, run_path

    # Without --resume there is nothing to compare, and a configuration takes a device to be complete.
    config = target.config() if target.output.resume else {}
    path = run_path(config, target.default_name, target.output, target.file)
    try:
        _run(target, path)
    except KeyboardInterrupt as stop:
        kept = (path / "config.yaml").is_file()
        how = f"what was done is saved, and {resume_command(['run', *argv], path)} goes on from there."
        raise KeyboardInterrupt(f"stopped; {how if kept else 'nothing was done yet.'}") from stop
    report = _tell(path)
    if target.output.open:
        import webbrowser

        webbrowser.open(report.resolve().as_uri())
    return 0


def _run(target: Target, path: Path) -> None:
    if target.job is not None:
        from mechlist.engine.local import run_job

        run_job(target.job, path, target.output)
        return
    from mechlist.study import run_study

    run_study(target.study, path, target.output)


def _tell(path: Path) -> Path:
    """What was found, and where the report is."""
    from mechlist.report.assemble import write_report
    from mechlist.runs import RunDirectory

    report = write_report(path)
    for finding in RunDirectory(path).record().get("findings", []):
        print(f"- {finding}")
    print(report)
    return report
