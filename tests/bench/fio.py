"""fio as a function: one job on a peer's directory, its figures as a dictionary."""
import json

from peers import run


def fio(peer, **options):
    """The member of the (grouped) job in fio's JSON output. An option's value is what fio's --option takes."""
    command = ["fio", "--name=job", f"--directory={peer.directory}", "--output-format=json", "--group_reporting"]
    command += [f"--{name}={value}" for name, value in options.items()]
    text = run(*command)
    return json.loads(text[text.index("{"):])["jobs"][0]
