"""Options that all benchmark programs have."""
import argparse
import os
import shutil

import peers


def parser(program, text):
    """What every program takes."""
    result = argparse.ArgumentParser(prog=f"tests/bench/{program}", description=text, usage=argparse.SUPPRESS,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--stagefs", help="the binary (default: bazel-bin/tools/stagefs)")
    result.add_argument("--directory", default="/var/tmp", help="where images go; its disk is what is measured")
    result.add_argument("--json", metavar="FILE", help="where the result goes")
    return result


def parser_with_peers(program, text, size_gib):
    """What those take that compare file systems. `size_gib`: how large an image each has, unless told otherwise."""
    result = parser(program, text)
    result.add_argument("--peers", default="ext4,stagefs,null",
                        help=f"file systems, with commas between, of {','.join(peers.KINDS)} (default: %(default)s)")
    result.add_argument("--null", help="the binary (default: bazel-bin/tests/bench/null_fuse/null_fuse)")
    result.add_argument("--size-gib", type=int, default=size_gib, help="of each image (default: %(default)s)")
    result.add_argument("--rounds", type=int, default=3, help="default: 3")
    return result


def parse_with_peers(of_parser):
    """The options of a program with peers; options.peers is a list of names."""
    options = of_parser.parse_args()
    options.peers = [name for name in options.peers.split(",") if name]
    for name in options.peers:
        if name not in peers.KINDS:
            of_parser.error(f"no peer is called {name!r}; there are {', '.join(peers.KINDS)}")
    use_binaries(options.stagefs, options.null)
    if shutil.which("fio") is None:
        of_parser.error("fio is missing (Debian package fio)")
    return options


def use_binaries(stagefs, null=None):
    if stagefs:
        peers.Stagefs.binary = os.path.realpath(stagefs)
    if null:
        peers.Null.binary = os.path.realpath(null)


def numbers(text):
    """A list of positive numbers with commas between, for argparse's type."""
    values = [int(part.replace("_", "")) for part in text.split(",")]
    if not values or min(values) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of positive numbers")
    return values
