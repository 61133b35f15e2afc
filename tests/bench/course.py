"""How peers are measured: one after the other at each piece of work, so that what the machine does besides hits all."""
import os
import sys
import time

import guard
import peers

MAKING_SECONDS = 1800


class Course:
    """Peers that are measured in turn. One that hangs or fails is made anew; its other figures are not lost."""

    def __init__(self, chosen, seconds):
        self.peers = chosen
        self.seconds = seconds

    def make(self, sparse=False):
        for peer in self.peers:
            self.say(f"making {peer.name}")
            guard.call(lambda: peer.make(sparse), peer.directory, MAKING_SECONDS)

    def measure(self, peer, what, function):
        """function(peer), or None with a line that says why."""
        self.say(f"{what}, {peer.name}")
        try:
            return guard.call(lambda: function(peer), peer.directory, self.seconds)
        except guard.Failed as failure:
            self.say(f"{what}, {peer.name}: failed: {failure}")
        self.restore(peer)
        return None

    def restore(self, peer):
        """After a failure: as it was if its mount still answers, or a fresh one."""
        try:
            guard.call(lambda: os.listdir(peer.directory), peer.directory, 10)
            if peers.mounts_below(peer.directory):
                return
        except guard.Failed:
            pass
        self.say(f"{peer.name} is made anew")
        peers.end_mounts(peer.directory)
        peers.remove_image(peer.image)
        guard.call(peer.make, peer.directory, MAKING_SECONDS)

    @staticmethod
    def say(line):
        print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)
