"""What the studies of several domains share: how a domain is given, and how a number stands in a table."""

import argparse


def domains_of(parser: argparse.ArgumentParser, given: list[str]) -> dict[str, list[str]]:
    """--domain NAME=PATH[,PATH], several times -> name -> paths; anything else ends the program with the form to use."""
    domains = {}
    for item in given:
        name, equals, paths = item.partition("=")
        if not (name and equals and paths):
            parser.error(f"--domain {item}: write NAME=PATH, or NAME=PATH,PATH")
        domains[name] = paths.split(",")
    return domains


def signed(value: float | None, digits: int = 3) -> str:
    """-0.0123 -> -.012; - for what was not measured."""
    if value is None:
        return "-"
    text = f"{value:+.{digits}f}"
    return text[0] + text[1:].removeprefix("0")
